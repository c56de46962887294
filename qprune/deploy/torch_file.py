"""Format `torch`: one .safetensors file with the tensors, and in its header the JSON from which the network is rebuilt.

The network is the evaluated one in every precision: load_torch(path) builds it and loads the tensors, without pickle. They
are stored as narrow as they are, integers as integers (qprune.deploy.stored); a file of an older qprune, which has what
training had, is read too.
A network of one's own (`module:function`) must be importable where the file is loaded.
"""

import json
from collections.abc import Collection
from pathlib import Path

from torch import nn

from qprune.deploy.cells import DeployedCell
from qprune.deploy.check import Run
from qprune.deploy.sidecar import metadata_of
from qprune.deploy.stored import Stored, restore, store
from qprune.registry.errors import UserError
from qprune.stages.saved import NetworkSpec

SUFFIX = ".safetensors"
KEY = "qprune.network"  # of the header's metadata
KEY_STORED = "qprune.stored"  # absent in older files


def write(cell: DeployedCell, path: Path) -> None:
    """Write the cell's tensors and rebuild JSON to one file."""
    from safetensors.torch import save_file

    metadata = {KEY: json.dumps(cell.spec.to_json()), **metadata_of(cell)}
    tensors, stored = store(cell.network, cell.tensors)
    metadata[KEY_STORED] = json.dumps(stored.to_json(), separators=(",", ":"))
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata)


def load_torch(path: str | Path, trust: Collection[str] = ()) -> nn.Module:
    """The network of a file that `qprune export --format torch` wrote, in eval mode.

    It takes float images in 0..1, [batch, c, h, w], and gives logits [batch, classes]. trust: the user's own code
    (module:function) that may be run to build it. Raises UserError for a file that isn't one, or needs other code.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} can't be read as safetensors: {error}") from error
    if KEY not in header:
        raise UserError(f"{path} has no {KEY!r} in its header; qprune export --format torch writes such files")
    spec = NetworkSpec.from_json(json.loads(header[KEY]), trust, path)
    if KEY_STORED not in header:
        return spec.load(tensors)
    return restore(spec, tensors, Stored.from_json(json.loads(header[KEY_STORED])))


def load(path: Path, cell: DeployedCell) -> Run:
    return load_torch(path, [cell.spec.model["name"]])
