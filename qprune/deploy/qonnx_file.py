"""Format `qonnx`: Brevitas networks with arbitrary-width Quant nodes, for FPGA tools (FINN, hls4ml), batch 1.

Written by brevitas.export.export_qonnx with the exporter that onnx_file takes, checked by qonnx's own executor.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from qprune.deploy.cells import DeployedCell
from qprune.deploy.check import Run
from qprune.deploy.export_forms import with_export_forms
from qprune.deploy.onnx_file import exporter_options, quiet, refuse_batch_statistics, save_described

SUFFIX = ".qonnx.onnx"


def write(cell: DeployedCell, path: Path) -> None:
    """Write the cell's network to one .onnx file with qonnx.custom_op.general operators."""
    refuse_batch_statistics(cell.network)
    example = torch.rand(1, *cell.spec.image_shape)
    with quiet(), torch.no_grad():
        from brevitas.export import export_qonnx

        network = with_export_forms(cell.network, cell.spec.image_shape)
        export_qonnx(network, args=example, export_path=str(path), **exporter_options())
        _fold_constants(path)
    import onnx

    save_described(cell, onnx.load(path), path)


def _fold_constants(path: Path) -> None:
    """What the exporter computes of constants (the sizes of a padding) as constants, which no batch size changes."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.fold_constants import FoldConstants
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(str(path))
    with _ir_version(model.model.ir_version):
        model.transform(InferShapes()).transform(FoldConstants()).save(str(path))


def load(path: Path, cell: DeployedCell) -> Run:
    """The file in qonnx's executor, its batch size changed to that of the images."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.change_batchsize import ChangeBatchSize
    from qonnx.transformation.infer_shapes import InferShapes

    models: dict[int, ModelWrapper] = {}

    def run(images: Tensor) -> Tensor:
        size = len(images)
        if size not in models:
            model = ModelWrapper(str(path))
            models[size] = model.transform(ChangeBatchSize(size)).transform(InferShapes())
        model = models[size]
        with _ir_version(model.model.ir_version):
            found = execute_onnx(model, {model.graph.input[0].name: images.numpy()})
        return torch.from_numpy(found[model.graph.output[0].name].copy())

    return run


@contextmanager
def _ir_version(number: int) -> Iterator[None]:
    """qonnx runs single nodes as models of onnx's newest IR version, which ONNX Runtime may not know yet."""
    import onnx

    before = onnx.IR_VERSION
    onnx.IR_VERSION = number  # type: ignore[assignment]  # onnx types it by its enum, and reads it as a number
    try:
        yield
    finally:
        onnx.IR_VERSION = before
