"""DIR/exports.csv: what the exported files of a sweep's cells weigh, as columns file_bytes_<format> beside their costs."""

from pathlib import Path

from qprune.registry.errors import UserError
from qprune.registry.packages import versions_of
from qprune.storage.durable import remove, write_whole
from qprune.storage.results import sha256
from qprune.storage.sealed_table import read_table, sealed_table

FILE, LATENCY_FILE = "exports.csv", "latency.csv"
COLUMNS = ("cell", "format", "file", "bytes", "sha256", "network_sha256", "agreement", "accuracy", "versions")
KEY = ["cell", "format"]
TEXTS = ("device",)  # of latency.csv
REMEDY = "delete it and export the cells again"


def note_export(folder: Path, record: dict, form, exported) -> None:
    """Put a file that passed its check into the table, in place of an older one of the same cell and format.

    record: the cell's; form, exported: a Format, and what export_cell gave.
    """
    import pandas as pd

    path = Path(folder) / FILE
    values = (
        record["cell"], form.name, exported.path.name, exported.size, sha256(exported.path.read_bytes()),
        record["network_sha256"], exported.parity.agreement, exported.parity.accuracy, versions_of(("torch", *form.packages)),
    )  # fmt: skip
    table = pd.DataFrame([values], columns=list(COLUMNS))
    if path.is_file():
        table = pd.concat([read_table(path, REMEDY), table]).drop_duplicates(KEY, keep="last")
    write_whole(path, sealed_table(table.to_csv(index=False)))


def read_file_bytes(folder: Path):
    """file_bytes_<format> of the exported cells, by cell: a DataFrame, empty where none was exported. Raises Damaged."""
    import pandas as pd

    path = Path(folder) / FILE
    table = read_table(path, REMEDY) if path.is_file() else pd.DataFrame(columns=list(COLUMNS))
    return table.pivot(index="cell", columns="format", values="bytes").add_prefix("file_bytes_")


def forget_measured(folder: Path, cell: str, network_sha256: str) -> None:
    """Drop what was measured of a cell, bytes and latencies, with another network than its record has now. A damaged table stays
    as it is, for its reader to name."""
    for path in (Path(folder) / FILE, Path(folder) / LATENCY_FILE):
        try:
            table = read_table(path, REMEDY, TEXTS)
        except (FileNotFoundError, UserError):
            continue
        measured = table.get("network_sha256")  # of old tables, unknown
        left = table[(table.cell != cell) | (measured == network_sha256 if measured is not None else False)]
        if left.empty:
            remove(path)
        elif len(left) < len(table):
            write_whole(path, sealed_table(left.to_csv(index=False)))
