"""Whether two sweeps left the same."""

import json
from pathlib import Path

import pandas as pd

from qprune.storage.results import read_cells, read_network, read_record

UNSHARED = ["seconds", "host"]  # of a row, where all else is the same on every machine and in every run


def same_rows(left: pd.DataFrame, right: pd.DataFrame, *but: str) -> None:
    """The cells of both tables have the same values in every column but these."""
    common = left.index.intersection(right.index)
    assert len(common)
    left, right = (frame.loc[common].drop(columns=[*UNSHARED, *but]) for frame in (left, right))
    pd.testing.assert_frame_equal(left, right, check_exact=True, check_dtype=False)


def leftovers(results: Path) -> list[str]:
    """Files that only a running sweep, or one that was killed, has: drafts, locks, unfinished work, damaged things."""
    files = (file.relative_to(results) for file in results.rglob("*") if file.is_file())
    return sorted(str(file) for file in files if "damaged" in file.parts or any(p.startswith(".") for p in file.parts))


def contents(results: Path) -> dict[str, object]:
    """Path -> what every finished file holds, but for seconds, host and checksums: JSON as values, tensors as bytes."""
    found = {}
    for file in results.rglob("*"):
        if file.suffix == ".json" and file.name != "sweep.json":  # which has the sweep file's path
            found[str(file.relative_to(results))] = _without_times(json.loads(file.read_text()))
        elif file.suffix == ".safetensors":
            found[str(file.relative_to(results))] = file.read_bytes()
    return found


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in ("seconds", "host", "sha256")}
    return value


def same_files(left: Path, right: Path) -> None:
    """Two results folders hold the same."""
    left, right = contents(left), contents(right)
    assert left.keys() == right.keys(), left.keys() ^ right.keys()
    different = {name: _differing(value, right[name]) for name, value in left.items() if value != right[name]}
    assert not different, different


def _differing(left, right):
    if isinstance(left, dict) and isinstance(right, dict):
        return {key: (left.get(key), right.get(key)) for key in left | right if left.get(key) != right.get(key)}
    return "other tensors"


def check_complete(folder: Path, undisturbed: Path, name: str) -> None:
    """The same cells, records, stages and networks as in the undisturbed sweep, and nothing left behind."""
    left, right = (read_cells(each / "results" / name).set_index("cell") for each in (folder, undisturbed))
    assert list(left.index) == list(right.index) and set(left.status) == {"done"}
    same_rows(left, right)
    same_files(folder / "results", undisturbed / "results")
    for cell in left.index:
        read_network(folder / "results" / name, read_record(folder / "results" / name, cell))
    assert not leftovers(folder / "results"), leftovers(folder / "results")
