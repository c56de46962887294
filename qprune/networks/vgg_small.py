"""vgg_small: five 3x3 convolutions with BN, for images of 28x28 to 32x32.

24, M, 48, 48, M, 96, 96, global average pooling, linear: 157,330 parameters and 12.4 M MACs at 1x28x28 and
10 classes. The layers at full resolution are kept to one narrow one, for on a CPU they take most of the time
per MAC (BN, ReLU and pooling are bound by memory). After VGG (Simonyan & Zisserman, ICLR 2015).
"""

from torch import nn

from qprune.networks.layers import pooled, require_size, scaled, vgg_layers

LAYOUT = (24, "M", 48, 48, "M", 96, 96)


def build(in_channels: int, num_classes: int, image_size: int, width: float = 1.0) -> nn.Module:
    """[n, in_channels, image_size, image_size] -> [n, num_classes]."""
    require_size("vgg_small", image_size, 4)
    layers = vgg_layers(LAYOUT, in_channels, width)
    return pooled(layers, scaled(LAYOUT[-1], width), num_classes)
