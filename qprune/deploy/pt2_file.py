"""Format `pt2`: torch.export with a dynamic batch; runs wherever torch does, without qprune.

fp16 is stored in half and computes as evaluated: values rounded to half, products and sums in FP32.
"""

from pathlib import Path

import torch

from qprune.deploy.cells import DeployedCell
from qprune.deploy.check import Run
from qprune.deploy.half import stored_half
from qprune.deploy.onnx_file import quiet
from qprune.deploy.sidecar import metadata_of
from qprune.precision import PRECISIONS

SUFFIX = ".pt2"


def write(cell: DeployedCell, path: Path) -> None:
    """Write the cell's network as an exported program."""
    half = PRECISIONS.get(cell.spec.precision).weights == "half"
    network = stored_half(cell.network) if half else cell.network
    example = torch.rand(2, *cell.spec.image_shape)
    batch = torch.export.Dim("batch", min=1)
    name = next(str(node.target) for node in network.graph.nodes if node.op == "placeholder")
    with quiet(), torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes={name: {0: batch}}, strict=False)
        torch.export.save(program, path, extra_files=metadata_of(cell))


def load(path: Path, cell: DeployedCell) -> Run:
    """The program, loaded by torch.export."""
    with quiet():
        return torch.export.load(path).module()
