"""Random small networks as Python source: blocks that are drawn, written line by line, and run as they are written.

`networks()` is the strategy; `build` makes the module, and is the model "generated:build" of a sweep's settings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from hypothesis import reject
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qprune.stages.saved import NetworkSpec

CLASSES = 5
HEADER = "class Network(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
One = TypeVar("One")


@dataclass(frozen=True)
class Written:
    """A network: the lines of its __init__ and of its forward, the shape of its images, the seed of its weights."""

    made: tuple[str, ...]
    run: tuple[str, ...]
    channels: int
    size: int
    seed: int

    @property
    def source(self) -> str:
        """The code that defines it, with torch, nn and F imported."""
        lines = [*(f"        {line}\n" for line in self.made), "\n    def forward(self, x):\n"]
        return HEADER + "".join([*lines, *(f"        {line}\n" for line in self.run), "        return x\n"])

    @property
    def spec(self) -> NetworkSpec:
        """What qprune rebuilds it from."""
        model = {"name": "generated:build", "source": self.source}
        return NetworkSpec(model, self.channels, self.size, CLASSES, (0.45,) * self.channels, (0.25,) * self.channels)

    def __repr__(self) -> str:
        return f"# images [n, {self.channels}, {self.size}, {self.size}], torch.manual_seed({self.seed})\n{self.source}"


def build(num_classes: int, source: str) -> nn.Module:
    """The network of a source, its weights from the global generator."""
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F}
    exec(source, names)
    return names["Network"]()


class Writer:
    """Writes a network, and runs each line as it is written, on two images, so that every shape is known.

    draw: hypothesis'. Names of tensors are those of forward: `x` is the one that is returned.
    """

    def __init__(self, draw: Callable, channels: int, size: int):
        self._draw = draw
        self.made: list[str] = []
        self.run: list[str] = []
        self.network = nn.Module()
        self.scope: dict[str, Any] = {
            "torch": torch, "nn": nn, "F": F, "self": self.network, "x": torch.rand(2, channels, size, size),
        }  # fmt: skip
        self.count = 0

    def one(self, *options: One) -> One:
        return self._draw(st.sampled_from(options))

    def maybe(self) -> bool:
        return self._draw(st.booleans())

    def several(self, low: int, high: int) -> range:
        return range(self._draw(st.integers(low, high)))

    def name(self, prefix: str) -> str:
        """A name that is free."""
        self.count += 1
        return f"{prefix}{self.count}"

    def make(self, line: str) -> None:
        """A line of __init__."""
        self._exec(line)
        self.made.append(line)

    def layer(self, code: str, prefix: str = "layer") -> str:
        """A layer; how forward calls it."""
        name = f"self.{self.name(prefix)}"
        self.make(f"{name} = {code}")
        return name

    def do(self, line: str) -> None:
        """A line of forward."""
        self._exec(line)
        self.run.append(line)

    def _exec(self, line: str) -> None:
        try:
            with torch.no_grad():
                exec(line, self.scope)
        except (RuntimeError, ValueError, TypeError):  # no such network: a window larger than the image, say
            reject()

    def shape(self, name: str) -> SimpleNamespace:
        """c, h, w of a tensor of images."""
        value: Tensor = self.scope[name]
        return SimpleNamespace(c=value.shape[1], h=value.shape[2], w=value.shape[3])

    def copy(self, of: str, prefix: str) -> str:
        """Another name for a tensor, by which a block goes on with it."""
        name = self.name(prefix)
        self.do(f"{name} = {of}")
        return name


# What blocks are made of: each goes on with the tensor called v ---------------------------------------------------------


def convolution(w: Writer, v: str, out: int | None = None, same: bool = False, kernel: int | None = None) -> None:
    """same: the image keeps its size."""
    shape = w.shape(v)
    out = w.one(4, 6, 8, 3, 5) if out is None else out
    kernel = w.one(3, 1, 5, 2, (1, 3)) if kernel is None else kernel
    options = []
    if same:
        if kernel != 1:
            options.append(w.one(f"padding={kernel // 2}", "padding='same'") if kernel in (3, 5) else "padding='same'")
    else:
        options.append(w.one("padding=1", "stride=2, padding=1", "stride=2", "padding='valid'", "padding=(0, 1)"))
        if kernel == 2:
            options[-1] = w.one("stride=2", "padding='same'", "padding=1")
    if kernel == 3 and w.one(0, 0, 0, 1):
        options = ["padding=2, dilation=2"]
    if kernel != 1 and w.one(0, 0, 1):
        options.append(f"padding_mode={w.one('reflect', 'replicate', 'circular')!r}")
    groups = [g for g in (2, 3, 4, shape.c) if g > 1 and shape.c % g == 0 and out % g == 0]
    if groups and w.one(0, 0, 1):
        options.append(f"groups={w.one(*groups)}")
    if w.maybe():
        options.append("bias=False")
    code = f"nn.Conv2d({', '.join(map(str, (shape.c, out, kernel)))}{''.join(f', {o}' for o in options)})"
    if w.one(0, 0, 0, 0, 1):
        code = w.one("nn.utils.weight_norm({})", "nn.utils.parametrizations.weight_norm({})").format(code)
    w.do(f"{v} = {w.layer(code, 'conv')}({v})")


def norm(w: Writer, v: str) -> None:
    c, h, wide = (shape := w.shape(v)).c, shape.h, shape.w
    kind = w.one(
        "batch", "none", "group", "instance", "layer", "batch plain", "batch functional", "group functional",
        "instance functional", "layer functional", "layer last",
    )  # fmt: skip
    groups = w.one(*[g for g in (1, 2, 3, 4, c) if c % g == 0])
    if kind == "batch":
        w.do(f"{v} = {w.layer(f'nn.BatchNorm2d({c})', 'norm')}({v})")
    elif kind == "batch plain":
        option = w.one("affine=False", "momentum=None", "eps=1e-3")
        w.do(f"{v} = {w.layer(f'nn.BatchNorm2d({c}, {option})', 'norm')}({v})")
    elif kind == "group":
        w.do(f"{v} = {w.layer(f'nn.GroupNorm({groups}, {c})', 'norm')}({v})")
    elif kind == "instance":
        option = w.one("", ", affine=True", ", affine=True, track_running_stats=True")
        w.do(f"{v} = {w.layer(f'nn.InstanceNorm2d({c}{option})', 'norm')}({v})")
    elif kind == "layer":
        w.do(f"{v} = {w.layer(f'nn.LayerNorm([{c}, {h}, {wide}])', 'norm')}({v})")
    elif kind == "layer last":
        made = w.layer(f"nn.LayerNorm({c})", "norm")
        w.do(f"{v} = {made}({v}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)")
    elif kind == "batch functional":
        made = w.layer(f"nn.BatchNorm2d({c})", "norm")
        w.do(
            f"{v} = F.batch_norm({v}, {made}.running_mean, {made}.running_var, {made}.weight, {made}.bias, self.training)"
        )
    elif kind == "group functional":
        w.do(f"{v} = F.group_norm({v}, {groups})")
    elif kind == "instance functional":
        w.do(f"{v} = F.instance_norm({v})")
    elif kind == "layer functional":
        w.do(f"{v} = F.layer_norm({v}, [{c}, {h}, {wide}])")


MODULES = (
    "ReLU()", "ReLU(inplace=True)", "ReLU6()", "LeakyReLU(0.1)", "ELU()", "SiLU()", "Hardswish()", "GELU()", "Sigmoid()",
    "PReLU()", "Tanh()", "Hardsigmoid()", "Hardtanh()", "Softplus()", "Mish()", "ReLU6(inplace=True)", "SiLU(inplace=True)",
)  # fmt: skip
FUNCTIONS = (
    "F.relu({})", "torch.relu({})", "{}.relu()", "F.relu({}, inplace=True)", "F.relu6({})", "F.leaky_relu({}, 0.2)", "F.elu({})",
    "F.silu({})", "F.hardswish({})", "F.gelu({})", "torch.sigmoid({})", "{}.sigmoid()", "F.sigmoid({})", "torch.tanh({})",
    "F.hardtanh({})", "F.softplus({})", "F.mish({})", "F.hardsigmoid({})", "{}.clamp(0, 6)", "{} * torch.sigmoid({})",
    "F.leaky_relu({}, inplace=True)", "{}.clamp(min=0)", "torch.relu_({})",
)  # fmt: skip


def activation(w: Writer, v: str) -> None:
    form = w.one("module", "function", "none", "prelu")
    if form == "module":
        w.do(f"{v} = {w.layer(f'nn.{w.one(*MODULES)}', 'act')}({v})")
    elif form == "function":
        w.do(f"{v} = {w.one(*FUNCTIONS).replace('{}', v)}")
    elif form == "prelu":
        w.do(f"{v} = {w.layer(f'nn.PReLU({w.shape(v).c})', 'act')}({v})")


def step(w: Writer, v: str, out: int | None = None, same: bool = False) -> None:
    """Convolution, norm, activation, in one of the usual orders."""
    order = w.one("cna", "nac", "c", "can")
    for each in order:
        if each == "c":
            convolution(w, v, out, same, kernel=w.one(3, 1, 5, 2) if same else None)
        else:
            {"n": norm, "a": activation}[each](w, v)


# Blocks ---------------------------------------------------------------------------------------------------------------


def plain(w: Writer, v: str) -> None:
    step(w, v)


def pool(w: Writer, v: str) -> None:
    shape = w.shape(v)
    wanted = w.one("1", "2", "3", "(2, 3)")
    code = w.one(
        "nn.MaxPool2d(2)", "nn.AvgPool2d(2)", "nn.MaxPool2d(3, 2, 1)", "nn.MaxPool2d(2, 1)", "nn.AvgPool2d(3, 2, 1)",
        "nn.AvgPool2d(3, 1, 1, count_include_pad=False)", "nn.AvgPool2d(3, 2, ceil_mode=True)", "nn.MaxPool2d(3, 2, ceil_mode=True)",
        f"nn.AdaptiveAvgPool2d({wanted})", f"nn.AdaptiveMaxPool2d({wanted})", "F.max_pool2d({}, 2)", "F.avg_pool2d({}, 2)",
        "F.max_pool2d({}, 3, stride=2, padding=1)", "F.avg_pool2d({}, (2, 1))", f"F.adaptive_avg_pool2d({{}}, {wanted})",
        f"F.adaptive_max_pool2d({{}}, {wanted})", "{}[:, :, ::2, ::2]", "nn.LPPool2d(2, 2)",
    )  # fmt: skip
    if min(shape.h, shape.w) < 3:
        return
    w.do(f"{v} = {code.replace('{}', v)}" if "{}" in code else f"{v} = {w.layer(code, 'pool')}({v})")


def residual(w: Writer, v: str) -> None:
    y = w.copy(v, "y")
    channels = w.shape(v).c
    for _ in w.several(0, 1):
        step(w, y, same=True)
    step(w, y, channels, same=True)
    form = w.one("{v} = {v} + {y}", "{v} = {y} + {v}", "{v} += {y}", "{v} = torch.add({v}, {y})", "{v} = {v}.add({y})", "{v} = {v} - {y}",
                 "{v} = {v} + 0.5 * {y}", "{v} = torch.maximum({v}, {y})")  # fmt: skip
    w.do(form.format(v=v, y=y))
    activation(w, v)


def branches(w: Writer, v: str) -> None:
    parts = [w.copy(v, "y") for _ in range(w.one(2, 3))]
    for part in parts[:-1] if w.maybe() else parts:
        step(w, part, same=True)
    joined = ", ".join(parts)
    w.do(v + w.one(" = torch.cat([{}], 1)", " = torch.cat(({}), dim=1)", " = torch.concat([{}], 1)").format(joined))


def gate(w: Writer, v: str) -> None:
    """Squeeze and excitation."""
    channels, s = w.shape(v).c, w.name("s")
    form = w.one("convolutions", "linear")
    sigmoid = w.one("torch.sigmoid({})", "F.hardsigmoid({})", "{}.sigmoid()", "F.relu6({} + 3) / 6")
    hidden = w.one(2, 4)
    if form == "convolutions":
        pooled = w.one(
            "{}.mean((2, 3), keepdim=True)", "F.adaptive_avg_pool2d({}, 1)", "{}.mean([2, 3], True)"
        ).replace("{}", v)
        w.do(f"{s} = F.relu({w.layer(f'nn.Conv2d({channels}, {hidden}, 1)', 'squeeze')}({pooled}))")
        w.do(f"{s} = {w.layer(f'nn.Conv2d({hidden}, {channels}, 1)', 'excite')}({s})")
    else:
        w.do(f"{s} = {w.one('{}.mean((2, 3))', 'F.adaptive_avg_pool2d({}, 1).flatten(1)').replace('{}', v)}")
        w.do(f"{s} = F.relu({w.layer(f'nn.Linear({channels}, {hidden})', 'squeeze')}({s}))")
        w.do(f"{s} = {w.layer(f'nn.Linear({hidden}, {channels})', 'excite')}({s})")
        w.do(s + " = " + w.one("{}.view(-1, {c}, 1, 1)", "{}[:, :, None, None]", "{}.unsqueeze(-1).unsqueeze(-1)",
                               "{}.view({}.size(0), {}.size(1), 1, 1)", "{}.reshape({}.shape[0], -1, 1, 1)").replace("{}", s).replace("{c}", str(channels)))  # fmt: skip
    w.do(f"{s} = {sigmoid.replace('{}', s)}")
    w.do(f"{v} = {w.one(f'{v} * {s}', f'{s} * {v}', f'torch.mul({v}, {s})', f'{v} * {s}.expand_as({v})')}")


def split(w: Writer, v: str) -> None:
    channels = w.shape(v).c
    if channels % 2:
        return
    half, a, b = channels // 2, w.name("a"), w.name("b")
    w.do(f"{a}, {b} = " + w.one("{}.chunk(2, 1)", "torch.chunk({}, 2, dim=1)", "{}.split({h}, 1)", "torch.split({}, [{h}, {h}], 1)",
         "{}[:, :{h}], {}[:, {h}:]").replace("{}", v).replace("{h}", str(half)))  # fmt: skip
    step(w, a, half, same=True)
    w.do(
        f"{v} = "
        + w.one(f"torch.cat([{a}, {b}], 1)", f"{a} * torch.sigmoid({b})", f"{a} + {b}", f"torch.cat([{b}, {a}], dim=1)")
    )


def twice(w: Writer, v: str) -> None:
    channels = w.shape(v).c
    made = w.layer(f"nn.Conv2d({channels}, {channels}, 3, padding=1)", "shared")
    w.do(f"{v} = {made}({v})")
    activation(w, v)
    w.do(f"{v} = {made}({v})")


def tie(w: Writer, v: str) -> None:
    channels = w.shape(v).c
    one, other = (w.layer(f"nn.Conv2d({channels}, {channels}, 3, padding=1)", "tied") for _ in range(2))
    w.make(f"{other}.weight = {one}.weight")
    w.do(f"{v} = {other}(F.relu({one}({v})))")


def depthwise(w: Writer, v: str) -> None:
    channels, out = w.shape(v).c, w.one(4, 6, 8)
    times = w.one(1, 2)
    w.do(f"{v} = {w.layer(f'nn.Conv2d({channels}, {channels * times}, 3, padding=1, groups={channels})', 'deep')}({v})")
    norm(w, v)
    activation(w, v)
    w.do(f"{v} = {w.layer(f'nn.Conv2d({channels * times}, {out}, 1, bias=False)', 'point')}({v})")


def shuffle(w: Writer, v: str) -> None:
    shape = w.shape(v)
    if shape.c % 2:
        return
    if w.maybe():
        w.do(f"{v} = {w.layer('nn.ChannelShuffle(2)', 'shuffle')}({v})")
    else:
        h, wide, half = shape.h, shape.w, shape.c // 2
        w.do(f"{v} = {v}.view(-1, 2, {half}, {h}, {wide}).transpose(1, 2).reshape(-1, {2 * half}, {h}, {wide})")


def pixels(w: Writer, v: str) -> None:
    shape = w.shape(v)
    if shape.c % 4 == 0 and shape.h <= 8:
        w.do(f"{v} = {w.layer('nn.PixelShuffle(2)', 'pixels') + f'({v})' if w.maybe() else f'F.pixel_shuffle({v}, 2)'}")
    elif shape.h % 2 == shape.w % 2 == 0 and shape.c <= 4:
        made = w.layer("nn.PixelUnshuffle(2)", "pixels") + f"({v})" if w.maybe() else f"F.pixel_unshuffle({v}, 2)"
        w.do(f"{v} = {made}")


def resize(w: Writer, v: str) -> None:
    shape = w.shape(v)
    if shape.h > 8:
        return
    code = w.one("nn.Upsample(scale_factor=2)", "nn.Upsample(scale_factor=2, mode='bilinear')", "F.interpolate({}, scale_factor=2)",
                 "F.interpolate({}, size=(9, 9), mode='bilinear', align_corners=False)", "nn.UpsamplingNearest2d(scale_factor=2)",
                 f"nn.ConvTranspose2d({shape.c}, 4, 2, stride=2)", f"nn.ConvTranspose2d({shape.c}, {shape.c}, 3, stride=2, padding=1, output_padding=1)")  # fmt: skip
    w.do(f"{v} = {code.replace('{}', v)}" if "{}" in code else f"{v} = {w.layer(code, 'up')}({v})")
    if w.maybe():
        w.do(f"{v} = {w.one(f'{v}[:, :, 1:-1, 1:-1]', f'{v}[..., :8, :8]', f'F.pad({v}, (-1, -1, -1, -1))')}")


def dropout(w: Writer, v: str) -> None:
    code = w.one("nn.Dropout(0.2)", "nn.Dropout2d(0.2)", "F.dropout({}, 0.2, self.training)", "nn.Dropout(0.2, inplace=True)",
                 "F.dropout2d({}, 0.1, training=self.training)")  # fmt: skip
    w.do(f"{v} = {code.replace('{}', v)}" if "{}" in code else f"{v} = {w.layer(code, 'drop')}({v})")


def gain(w: Writer, v: str) -> None:
    """A parameter of the network's own."""
    channels = w.shape(v).c
    made = w.layer(w.one(f"nn.Parameter(torch.ones({channels}, 1, 1))", "nn.Parameter(torch.ones(1))", f"nn.Parameter(torch.rand(1, {channels}, 1, 1))"), "gain")  # fmt: skip
    w.do(f"{v} = {w.one(f'{v} * {made}', f'{v} + {made}', f'{made} * {v}', f'torch.mul({v}, {made})')}")


def functional(w: Writer, v: str) -> None:
    """A convolution whose weight is the network's own."""
    channels, out = w.shape(v).c, w.one(4, 6)
    weight = w.layer(f"nn.Parameter(torch.randn({out}, {channels}, 3, 3) * 0.2)", "weight")
    bias = w.one("None", w.layer(f"nn.Parameter(torch.zeros({out}))", "bias"))
    w.do(f"{v} = F.conv2d({v}, {weight}, {bias}, padding={w.one(1, (1, 0), repr('same'))})")


def padded(w: Writer, v: str) -> None:
    code = w.one("nn.ZeroPad2d(1)", "nn.ReflectionPad2d(1)", "nn.ReplicationPad2d((1, 0, 1, 0))", "F.pad({}, (0, 1, 1, 0))",
                 "F.pad({}, (1, 1, 1, 1), mode='reflect')", "nn.ConstantPad2d(1, 0.5)")  # fmt: skip
    w.do(f"{v} = {code.replace('{}', v)}" if "{}" in code else f"{v} = {w.layer(code, 'pad')}({v})")


BLOCKS = (
    plain, pool, residual, depthwise, branches, gate, norm, activation, dropout, gain, split, twice, shuffle, pixels, resize,
    functional, padded, tie,
)  # fmt: skip


def head(w: Writer) -> None:
    shape, v = w.shape("x"), "x"
    form = w.one("mean", "flatten", "adaptive", "convolution", "view", "maximum")
    if form == "convolution":
        w.do(f"x = {w.layer(f'nn.Conv2d({shape.c}, {CLASSES}, 1)', 'head')}(x)")
        w.do(f"x = {w.one('x.mean((2, 3))', 'F.adaptive_avg_pool2d(x, 1).flatten(1)', 'x.mean(3).mean(2)')}")
        return
    if form == "mean":
        w.do(f"x = {w.one('x.mean((2, 3))', 'x.mean([-1, -2])', 'torch.mean(x, dim=(2, 3))', 'x.mean(-1).mean(-1)')}")
    elif form == "adaptive":
        made = w.layer(
            w.one("nn.AdaptiveAvgPool2d(1)", "nn.AdaptiveAvgPool2d((1, 1))", "nn.AdaptiveMaxPool2d(1)"), "pool"
        )
        w.do(
            f"x = {w.one('torch.flatten({}, 1)', '{}.squeeze(-1).squeeze(-1)', '{}[:, :, 0, 0]').format(f'{made}(x)')}"
        )
    elif form == "maximum":
        w.do(f"x = {w.one('x.amax((2, 3))', 'torch.amax(x, (2, 3))', 'x.flatten(2).max(2)[0]', 'x.sum((2, 3))')}")
    elif form == "flatten":
        made = w.layer("nn.Flatten()", "flat") + "(x)"
        w.do(f"x = {w.one(made, 'x.flatten(1)', 'torch.flatten(x, 1)', 'torch.flatten(x, start_dim=1)')}")
    else:
        width = shape.c * shape.h * shape.w
        w.do(f"x = {w.one('x.view(x.size(0), -1)', f'x.reshape(-1, {width})', 'x.reshape(x.shape[0], -1)', f'x.contiguous().view(-1, {width})')}")  # fmt: skip
    width = w.scope[v].shape[1]
    for _ in w.several(0, 1):
        w.do(f"x = {w.layer(f'nn.Linear({width}, 8)', 'hidden')}(x)")
        if w.one(0, 0, 1):
            w.do(f"x = {w.layer(w.one('nn.BatchNorm1d(8)', 'nn.LayerNorm(8)'), 'norm')}(x)")
        if w.maybe():
            w.do(f"x = {w.one(*FUNCTIONS).replace('{}', 'x')}")
        width = 8
    bias = w.one("", ", bias=False")
    w.do(f"x = {w.layer(f'nn.Linear({width}, {CLASSES}{bias})', 'head')}(x)")


@st.composite
def networks(draw: Callable, blocks: Sequence[Callable[[Writer, str], None]] = BLOCKS) -> Written:
    """A stem, 1 to 4 blocks, a head; for images of 8 to 16 pixels, in grey or colours."""
    channels, size = draw(st.sampled_from((1, 3))), draw(st.sampled_from((8, 9, 12, 16)))
    seed = draw(st.integers(0, 99))
    torch.manual_seed(seed)
    w = Writer(draw, channels, size)
    step(w, "x")
    for _ in w.several(1, 4):
        w.one(*blocks)(w, "x")
    head(w)
    written = Written(tuple(w.made), tuple(w.run), channels, size, seed)
    if w.scope["x"].shape != (2, CLASSES) or _is_noise(written):
        reject()
    return written


@torch.no_grad()
def _is_noise(written: Written) -> bool:
    """Whether the logits are rounding errors, as those of the mean behind an instance normalisation, which is 0."""
    images = torch.rand(8, written.channels, written.size, written.size)
    torch.manual_seed(written.seed)
    network = build(CLASSES, written.source).eval()
    single, double = network(images), network.double()(images.double())
    return not (single - double).abs().max() < 1e-3 * double.std(0).max()
