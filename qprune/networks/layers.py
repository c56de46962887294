"""What qprune's own networks are made of."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from qprune.networks.operations import register_operation
from qprune.registry.errors import UserError


class Pad(nn.Module):
    """Pads images [n, c, h, w] by (left, right, top, bottom), as a convolution of that padding_mode does."""

    def __init__(self, sides: tuple[int, int, int, int], padding_mode: str):
        super().__init__()
        self.sides, self.mode = sides, "constant" if padding_mode == "zeros" else padding_mode

    def forward(self, images: Tensor) -> Tensor:
        return F.pad(images, self.sides, self.mode)


register_operation(Pad, macs=0, exact=True, keeps_width=True, keeps_sign=True)


def scaled(channels: int, width: float) -> int:
    """The channels of a layer in a network of that width; at least 1."""
    return max(1, round(channels * width))


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution that keeps the image's size at stride 1, without bias, and the BN that follows it."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


def conv_like(conv: nn.Conv2d, in_channels: int, out_channels: int, groups: int = 1) -> nn.Conv2d:
    """A fresh convolution with other numbers of channels."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return nn.Conv2d(
        in_channels,
        out_channels,
        *shape,  # type: ignore[arg-type]  # torch's attributes are of any length, its parameters of two
        groups=groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
    )


def frozen_as(layer: nn.Module, new: nn.Module) -> nn.Module:
    """The new layer, in place: its own parameters need a gradient where those of that name in the layer do."""
    for name, parameter in layer.named_parameters(recurse=False):
        new.get_parameter(name).requires_grad_(parameter.requires_grad)
    return new


def vgg_layers(layout: tuple[int | str, ...], in_channels: int, width: float) -> "OrderedDict[str, nn.Module]":
    """3x3 convolution, BN and ReLU for each number of the layout, 2x2 max pooling for each "M".

    Named conv1, bn1, relu1, conv2, ..., pool1, ... in the order of the layout.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    convs = pools = 0
    for item in layout:
        if isinstance(item, str):
            pools += 1
            layers[f"pool{pools}"] = nn.MaxPool2d(2)
            continue
        convs += 1
        out_channels = scaled(item, width)
        layers[f"conv{convs}"], layers[f"bn{convs}"] = conv_bn(in_channels, out_channels)
        layers[f"relu{convs}"] = nn.ReLU()
        in_channels = out_channels
    return layers


def pooled(layers: "OrderedDict[str, nn.Module]", channels: int, num_classes: int) -> nn.Module:
    """The layers, which make so many channels, with global average pooling and one linear layer behind them; initialised."""
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["linear"] = nn.Linear(channels, num_classes)
    return initialise(nn.Sequential(layers))


def initialise(model: nn.Module) -> nn.Module:
    """The model, its convolutions drawn as in He et al. (ICCV 2015, Eq. 15, fan out); the rest as PyTorch does it."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def require_size(name: str, image_size: int, smallest: int) -> None:
    """UserError where the pooling layers would leave nothing of the image."""
    if image_size < smallest:
        raise UserError(
            f"model {name}: images of {image_size}x{image_size} are too small; it takes {smallest}x{smallest} on."
        )
