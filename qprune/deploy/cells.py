"""A finished cell with what its export needs: the evaluated network, how it is rebuilt, and the test split."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx

from qprune.data import Split, list_files, load_data, preprocessing_of
from qprune.data.preprocessing import Preprocessing
from qprune.networks import is_user_model, model_fingerprint
from qprune.registry import nearest
from qprune.registry.errors import UserError
from qprune.registry.user_code import check_trust
from qprune.stages.saved import NetworkSpec
from qprune.storage.correctness import classes_of
from qprune.storage.results import read_cells, read_network, record_file
from qprune.storage.results import read_record as read_checked


@dataclass(frozen=True)
class DeployedCell:
    """network: as it was evaluated, in eval mode, on the CPU; takes float images in 0..1, [batch, c, h, w].

    spec, tensors: what it is rebuilt from (NetworkSpec.load); record: the cell's JSON; class_names: of its data, in the
    order of the logits; dense: the sweep's unpruned network, where that is of another model than the cell's (a narrower one's);
    preprocessing: how its images came to be, where they aren't just tensors; pictures: the files of the test images, where the
    exported file is to do that itself.
    """

    name: str
    record: dict
    spec: NetworkSpec
    tensors: Mapping[str, Tensor]
    network: fx.GraphModule
    test: Split
    class_names: tuple[str, ...]
    dense: NetworkSpec | None = None
    preprocessing: Preprocessing | None = None
    pictures: tuple[Path, ...] = ()


def read_record(folder: Path, cell: str) -> dict:
    """A finished cell's record. Raises UserError, naming the nearest cell, where there is none or it is damaged."""
    cells = read_cells(folder)
    if cell not in set(cells.cell):
        known = difflib.get_close_matches(cell, list(cells.cell), n=5, cutoff=0) or list(cells.cell)
        raise UserError(f"{folder} has no cell {cell!r}{nearest(cell, known)}")
    if not record_file(folder, cell).is_file():
        status = cells.loc[cells.cell == cell, "status"].iloc[0]
        remedy = "run the sweep with --set strategy=grid" if status == "skipped" else "run the sweep again"
        raise UserError(f"cell {cell} of {folder} is {status}: it has no network; {remedy}")
    return read_checked(folder, cell)


def open_cell(folder: Path, cell: str, trust: Collection[str] = ()) -> DeployedCell:
    """Raises UserError for an unknown cell, one whose network was not kept, and data that can't be read.

    trust: the user's own code (module:function) that may be run for its network and data; other code is refused.
    """
    folder = Path(folder)
    record = read_record(folder, cell)
    spec = NetworkSpec.from_json(record["network"], trust, record_file(folder, cell))
    check_model_unchanged(record, record_file(folder, cell))
    tensors = read_network(folder, record)
    network = spec.load(tensors)
    settings = data_settings(folder, record)
    check_trust(settings["name"], trust, record_file(folder, cell))
    data = load_data(settings)
    model = {"model": record["model_settings"]}
    dense = NetworkSpec.from_json(record["network"] | model, trust, record_file(folder, cell))
    names, how = tuple(data.class_names), preprocessing_of(settings, data)
    return DeployedCell(cell, record, spec, tensors, network.eval(), data.test, names, dense, how)


def with_pictures(folder: Path, cell: DeployedCell) -> DeployedCell:
    """The cell, to be exported with its preprocessing inside. Raises UserError where a graph can't hold it."""
    from qprune.deploy.embed import check_embeddable

    settings = data_settings(folder, cell.record)
    assert cell.preprocessing is not None
    check_embeddable(cell.preprocessing, settings["name"])
    listing = list_files(settings)
    assert listing is not None
    return replace(cell, pictures=tuple(listing.parts["test"][0]))


def recorded_classes(cell: DeployedCell) -> Tensor | None:
    """int64 [test images]: what the network answered when it was evaluated; None where its record doesn't say, or its data has
    another number of test images by now."""
    classes = classes_of(cell.record["test"]) if "test" in cell.record else None
    if classes is None or len(classes[1]) != len(cell.test):
        return None
    return torch.from_numpy(classes[1])


def check_model_unchanged(record: dict, place: Path) -> None:
    """UserError where the user's function that built a cell's network is another by now. place: of the record."""
    settings = record.get("model_settings")
    if settings is None or not is_user_model(settings["name"]):
        return  # qprune's own are what their name and version say
    settled = (stage["settings"].get("model_fingerprint") for stage in record["stages"].values())
    before = next(filter(None, settled), None)
    if before is not None and model_fingerprint(settings) != before:
        raise UserError(
            f"{place}: the code of model {settings['name']} has changed since this network was trained, so that it would be "
            "another network: put the code back as it was, or run the sweep again"
        )


def data_settings(folder: Path, record: dict) -> dict:
    """Settings of the data set that a cell was made on. Raises UserError for a record that doesn't say them."""
    try:
        return record["data_settings"]
    except KeyError:
        path = record_file(folder, record["cell"])
        raise UserError(
            f"{path} is of an older qprune and doesn't say its data; run the sweep again elsewhere"
        ) from None


def load_network(results_dir: str | Path, cell: str, trust: Collection[str] = ()):
    """A cell's network as it was evaluated, in eval mode: takes float images in 0..1, [batch, c, h, w], gives logits.

    results_dir: the sweep's folder, e.g. "results/quickstart"; cell: as in the column `cell`; trust: the user's own
    code (module:function) that may be run to build it. Raises UserError for an unknown cell, one whose network was not
    kept, one whose files are damaged, and one that needs code that isn't in `trust`.
    """
    folder = Path(results_dir)
    files = (path.name for path in (folder / "cells").glob("*.json"))
    known = {name.removesuffix(".json") for name in files if not name.endswith(".failed.json")}
    if cell not in known:
        raise UserError(f"{folder} has no finished cell {cell!r}{nearest(cell, sorted(known)[:20])}")
    record = read_checked(folder, cell)
    spec = NetworkSpec.from_json(record["network"], trust, record_file(folder, cell))
    check_model_unchanged(record, record_file(folder, cell))
    return spec.load(read_network(folder, record))
