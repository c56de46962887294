"""The cells of a sweep with all that was measured of them."""

from pathlib import Path

from qprune.storage.results import read_cells


def read_measured(folder: Path):
    """cells.csv as a DataFrame, with `latency_ms` and `speedup` where qprune bench has measured them (batch 1).

    Raises UserError for a folder that isn't a sweep's.
    """
    cells = read_cells(folder)
    if (Path(folder) / "latency.csv").is_file():
        from qprune.deploy.latency import read_latency

        cells = cells.join(read_latency(folder), on="cell")
    return cells
