"""What works on networks that nobody had in mind: every torchvision classifier, the smallest of each family, and timm's small ones.

python tests/benchmarks/zoo.py [NAME ...] [--timm] [--out results/benchmarks/zoo.csv]

Each network, for 10 classes, on random weights and images: cut to half of its maps (prune), then at each precision prepared,
counted, finished, counted, run (what `qprune plan` tries), its weight_bytes held against its tensors (bytes), and written and
run as ONNX. A row a network; "ok", or why not. timm has to be installed for --timm (`pip install timm`).
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import fx, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))
from stored_bytes import stored_bytes  # noqa: E402

from qprune.cost import count_cost
from qprune.deploy.cells import DeployedCell
from qprune.deploy.export import try_export
from qprune.deploy.formats import FORMATS
from qprune.networks.free_sizes import free_sizes
from qprune.networks.graph import with_normalize
from qprune.registry.errors import UserError
from qprune.stages.saved import NetworkSpec
from qprune.sweep.trial import Rehearsal, cut, finish_at, settle

SMALLEST = {  # of each family of torchvision, and the least size of image that it takes, from 64 on
    "alexnet": 64, "convnext_tiny": 64, "densenet121": 64, "efficientnet_b0": 64, "efficientnet_v2_s": 64, "googlenet": 64,
    "inception_v3": 96, "maxvit_t": 224, "mnasnet0_5": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64, "regnet_y_400mf": 64, "resnet18": 64, "resnext50_32x4d": 64, "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64, "swin_t": 64, "swin_v2_t": 64, "vgg11": 64, "vgg11_bn": 64, "vit_b_32": 224, "wide_resnet50_2": 64,
}  # fmt: skip
TIMM = (
    "mobilenetv3_small_100", "resnet10t", "resnet14t", "regnetx_002", "regnety_002", "efficientnet_lite0", "ghostnet_050",
    "lcnet_050", "tinynet_e", "mnasnet_small", "mobilenetv2_035", "hardcorenas_a", "densenet121", "dla46_c", "res2net50_26w_4s",
    "repvgg_a0", "convnext_atto", "vit_tiny_patch16_224", "deit_tiny_patch16_224",
)  # fmt: skip
TRANSFORMERS = ("maxvit", "swin", "vit", "deit")
LINEAR = (*TRANSFORMERS, "convnext")  # whose convolutions are few: hidden units of linear layers are maps too
PRECISIONS = ("fp16", "int8", "int4", "mixed4")
OK = "ok"


class Timm(NetworkSpec):
    """A network of timm's, which settings don't name."""

    def build(self, pretrained: bool = False) -> fx.GraphModule:
        import timm

        options = {"img_size": self.image_size} if self.model["name"].startswith(("vit", "deit")) else {}
        model: nn.Module = timm.create_model(self.model["name"], num_classes=self.num_classes, **options)
        network = with_normalize(model, self.mean, self.std)
        free_sizes(network, self.image_shape)
        return network


def row_of(spec: NetworkSpec) -> dict[str, str]:
    """What works for a network: "ok" or the reason, by what was tried."""
    linear = spec.model["name"].removeprefix("torchvision:").startswith(LINEAR)
    rehearsal = Rehearsal(spec, "", 0.5, linear, (), 1, 1, None, 8)
    whole = Rehearsal(spec, "", 0.0, linear, (), 1, 1, None, 8)
    row: dict[str, str] = {}
    torch.manual_seed(0)
    network = _tried(row, "prune", lambda: settle(cut(rehearsal), spec)) or _tried(
        row, "fp32", lambda: settle(cut(whole), spec)
    )
    for precision in ("fp32", *PRECISIONS):
        found = None
        if network is not None:
            found = _tried(row, precision, lambda precision=precision: finish_at(rehearsal, network, precision))
        if found is not None:
            _tried(row, f"{precision}, bytes", lambda found=found: _count_bytes(found))
            _tried(row, f"{precision}, onnx", lambda found=found: _export(found))
    return row


def _tried(row: dict[str, str], what: str, attempt: Callable):
    """What the attempt gives; None where it fails, and the row then has why."""
    try:
        given = attempt()
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        row[what] = f"{kind}{' '.join(str(error).split())[:200]}"
        return None
    row[what] = OK
    return given


def _count_bytes(made: DeployedCell) -> bool:
    counted = count_cost(made.network, made.spec.image_shape).weight_bytes
    if counted != (stored := stored_bytes(made.network)):
        raise UserError(f"{counted:,} bytes are counted, and its tensors have {stored:,}")
    return True


def _export(made: DeployedCell) -> bool:
    try_export(made, FORMATS.get("onnx"))
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="of torchvision, or with --timm of timm (default: all)")
    parser.add_argument("--timm", action="store_true", help="timm's networks, which have to be installed")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/zoo.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [] if not options.out.exists() else pd.read_csv(options.out).fillna("").to_dict("records")
    for name in options.names or (TIMM if options.timm else SMALLEST):
        size = 224 if name.startswith(("vit_tiny", "deit")) else SMALLEST.get(name, 64)
        full = f"timm:{name}" if options.timm else f"torchvision:{name}"
        spec = (Timm if options.timm else NetworkSpec)(
            {"name": name if options.timm else full}, 3, size, 10, (0.45,) * 3, (0.25,) * 3
        )
        started = time.monotonic()
        row = {"network": full, "image": size, **row_of(spec), "seconds": round(time.monotonic() - started, 1)}
        print(*(f"{key}: {value}" for key, value in row.items()), sep="\n  ", flush=True)
        rows = [other for other in rows if other["network"] != full] + [row]
        pd.DataFrame(sorted(rows, key=lambda one: one["network"])).to_csv(options.out, index=False)
    table = pd.read_csv(options.out).set_index("network").drop(columns=["image", "seconds"])
    convolutional = table[[not name.partition(":")[2].startswith(TRANSFORMERS) for name in table.index]]
    for what, some in (("of convolutional networks", convolutional), ("of all", table)):
        print(f"{what}: {(some == OK).to_numpy().mean():.0%} of {some.size} cells ok")


if __name__ == "__main__":
    main()
