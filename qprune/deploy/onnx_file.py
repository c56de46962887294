"""Format `onnx`: standard operators only, dynamic batch, run by ONNX Runtime.

fp32   the network; batch normalisation behind a convolution is folded into it
fp16   half weights and half tensors (qprune.deploy.half.native_half); on a CPU without half arithmetic ONNX Runtime
       multiplies in FP32, as evaluated, and skips some roundings between layers (logits differ by about 0.01)
int8   torch.ao's converted network as QuantizeLinear / DequantizeLinear around float operators (QDQ), which ONNX
       Runtime fuses into integer kernels. Biases stay in float: torch's kernels add them in float, and the exporter's
       own symbolic would cut them to int32 towards zero. ONNX Runtime rounds them to int32 itself.
w8a8   Brevitas' QCDQ (here plain QDQ), batch normalisation folded into scales and biases (qprune.deploy.fold), so
       that ONNX Runtime runs a convolution whose output is quantised next on integer kernels
w*a*   Brevitas' QCDQ: integer weights, and a Clip between QuantizeLinear and DequantizeLinear of activations; products
       in FP32. Nothing is folded: fused kernels round a bias to multiples of (input scale x weight scale), which are
       a large part of the next quantiser's step here (with folding 92% of 449 digits agreed, without it all).

Integer weights of up to 4 bits are stored two to a byte (opset 21, qprune.deploy.onnx_pack), wider ones in INT8; each constant
once. What needs no such type is of opset 17. The least ONNX Runtime that runs a file: LEAST_RUNTIME, by its opset.

Written by torch's TorchScript exporter; where torch has none any more, by that of torch.export (dynamo), which gives the same
logits of fp32, fp16 and w*a*, but is several times slower, and can't follow torch.ao's packed weights (int8). Pooling and shuffles that they or ONNX Runtime get wrong are
written otherwise first (qprune.deploy.export_forms); what TorchScript's lacks of integer operators is in qprune.deploy.symbolics.
"""

import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qprune.cost.widths import weight_width
from qprune.deploy.cells import DeployedCell
from qprune.deploy.check import Run
from qprune.deploy.embed import embed
from qprune.deploy.export_forms import with_export_forms
from qprune.deploy.formats import NARROWEST
from qprune.deploy.half import native_half
from qprune.deploy.kit_bench import numbers, open_session
from qprune.deploy.sidecar import metadata_of, preprocessing_of
from qprune.deploy.symbolics import OPSET, integer_operators
from qprune.networks.torch_ao import LAST_TORCH
from qprune.precision import PRECISIONS
from qprune.registry.errors import UserError
from qprune.registry.packages import have

SUFFIX = ".onnx"
INPUT, OUTPUT = "images", "logits"
DYNAMO_OPSET = 18  # the least that the newer exporter writes
NEWEST_OPSET = 20  # of the older one; what it writes is of opset 21 and 25 too, whose operators only bear more types
LEAST_RUNTIME = {17: "1.15", 21: "1.19", 25: "1.24"}  # ONNX Runtime by opset: 1.18.1 has no INT4, 1.23.2 has no INT2
DEFAULT_OPSET = 21  # the largest that a file may need, unless another is asked for


def write(cell: DeployedCell, path: Path, opset: int = DEFAULT_OPSET) -> None:
    """Write the cell's network to one .onnx file. opset: the largest that may be used, one of LEAST_RUNTIME.

    Raises UserError where the installed ONNX Runtime is too old to run what would be written.
    """
    needed = opset_needed(cell.network, opset)
    require_runtime(needed)
    entry = PRECISIONS.get(cell.spec.precision)
    refuse_batch_statistics(cell.network)
    example = torch.rand(2, *cell.spec.image_shape)
    if entry.layers == "torch.ao" and not has_torchscript_exporter():
        raise UserError(
            f"{cell.spec.precision} is written as onnx by torch's TorchScript exporter, which torch {torch.__version__} hasn't; "
            f"install one that has it (pip install 'torch=={LAST_TORCH}.*'), take w8a8, or use --format torch"
        )
    options = exporter_options()
    if options["dynamo"]:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch", min=1)},)
    else:
        version = OPSET if needed == OPSET else NEWEST_OPSET
        options |= {"dynamic_axes": {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}, "opset_version": version}
    with quiet(), torch.no_grad():
        if entry.layers != "brevitas":
            network = native_half(cell.network) if entry.weights == "half" else cell.network
            network = with_export_forms(network, cell.spec.image_shape)
            with nullcontext() if options["dynamo"] else integer_operators():
                torch.onnx.export(network, (example,), str(path), **options)
        else:
            from brevitas.export import export_onnx_qcdq

            from qprune.deploy.fold import fold_batch_norms

            all_8_bits = entry.bits == (8, 8) and cell.spec.first_last_bits in (None, 8)
            network = fold_batch_norms(cell.network) if all_8_bits else cell.network
            network = with_export_forms(network, cell.spec.image_shape)
            export_onnx_qcdq(network, args=example, export_path=str(path), **options)
    import onnx

    from qprune.deploy.onnx_pack import pack_weights

    model = onnx.load(path)
    pack_weights(model, opset)
    if cell.pictures:
        model = embed(model, preprocessing_of(cell))
    save_described(cell, model, path)


def opset_needed(network: nn.Module, most: int = DEFAULT_OPSET) -> int:
    """The least opset with types for the network's weights; most: the largest that may be used. Both of NARROWEST."""
    widths = [weight_width(layer) for layer in network.modules() if hasattr(layer, "weight_quant")]
    held = next((bits for bits in sorted(NARROWEST.values()) if min(widths, default=8) <= bits), 8)
    return next(opset for opset, bits in NARROWEST.items() if opset == most or bits <= held)


def require_runtime(opset: int) -> None:
    """Raises UserError where the installed ONNX Runtime, or onnx, knows no such opset."""
    import onnx
    import onnxruntime

    least = LEAST_RUNTIME[opset]
    if numbers(onnxruntime.__version__) < numbers(least):
        raise UserError(
            f"--opset {opset}: such files run in ONNX Runtime from {least} on, and {onnxruntime.__version__} is installed; "
            "update it, or give a smaller --opset"
        )
    if onnx.defs.onnx_opset_version() < opset:
        raise UserError(
            f"--opset {opset}: onnx {onnx.__version__} knows opsets up to {onnx.defs.onnx_opset_version()}; update it, or give a "
            "smaller --opset"
        )


def least_runtime(opset: int) -> str:
    """The least ONNX Runtime that runs a file of an opset."""
    return next(version for number, version in LEAST_RUNTIME.items() if opset <= number)


def has_torchscript_exporter() -> bool:
    """Whether torch has its older exporter, which is deprecated."""
    return have("torch.onnx.symbolic_opset9")


def exporter_options() -> dict[str, Any]:
    """Names, and which exporter of torch's is to be used: for torch.onnx.export and Brevitas' functions. Raises UserError
    where the newer one is needed, and a package of it is missing."""
    options: dict[str, Any] = {
        "input_names": [INPUT],
        "output_names": [OUTPUT],
        "dynamo": not has_torchscript_exporter(),
    }
    if not options["dynamo"]:
        return options | {"keep_initializers_as_inputs": False}
    if not have("onnxscript"):
        raise UserError(f"torch {torch.__version__} writes ONNX by onnxscript; install it with: pip install onnxscript")
    return options | {"opset_version": DYNAMO_OPSET, "external_data": False, "verbose": False}


def refuse_batch_statistics(network: fx.GraphModule) -> None:
    """UserError where batch normalisation goes by the batch at hand, which no operator of ONNX does."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise UserError(
                f"layer {name} ({type(module).__name__}) normalises by the batch at hand, which ONNX can't say; give it running "
                "statistics (track_running_stats=True), or use --format torch"
            )


def load(path: Path, cell: DeployedCell) -> Run:
    """The file in ONNX Runtime, on the CPU."""
    return run_of(open_session(path, torch.get_num_threads()))


def run_of(session) -> Run:
    """The session as a function of tensors."""
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {name: images.numpy()})
        return torch.from_numpy(logits)

    return run


def save_described(cell: DeployedCell, model: Any, path: Path) -> None:
    """Write a model, with what it is and what its input and classes mean. Raises onnx's errors for a bad graph."""
    import onnx

    onnx.checker.check_model(model, full_check=False)
    onnx.helper.set_model_props(
        model,
        {
            **metadata_of(cell),
            "qprune.precision": cell.spec.precision,
            "qprune.input": "uint8 pictures, [batch, h, w, 3]"
            if cell.pictures
            else "float images in 0..1, [batch, c, h, w]",
        },
    )
    onnx.save(model, path)


@contextmanager
def quiet():
    """Hides the exporters' warnings (of tracing, of being the older one), and the graph that one prints as it fails.

    NOTE torch.onnx means to print it only if `verbose`, and asks whether a function is true instead of calling it.
    """
    log = torch._C._jit_onnx_log
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._C._jit_onnx_log = lambda *arguments: None
        try:
            yield
        finally:
            torch._C._jit_onnx_log = log
