"""What qonnx counts of an exported network, beside what qprune counts."""

from qprune.cost import count_cost
from qprune.precision import get_precision


def total_cost(network, name, images, folder, **options):
    from brevitas.export import export_qonnx
    from qonnx.util.inference_cost import inference_cost

    precision = get_precision(name, **options).choose(network, images)
    prepared = precision.prepare(network, images)
    path = folder / "network.onnx"
    export_qonnx(precision.finish(prepared), args=images[:1], export_path=str(path), dynamo=False)
    return inference_cost(str(path), discount_sparsity=False)["total_cost"], count_cost(
        prepared, tuple(images.shape[1:])
    )
