"""vgg_tiny: six 3x3 convolutions with BN, for images of 8x8 to 28x28; trains within seconds on a CPU.

16, 16, M, 32, 32, M, 64, 64, global average pooling, linear: 72,666 parameters and 0.6 M MACs at 1x8x8 and
10 classes. After VGG (Simonyan & Zisserman, ICLR 2015), with the average pooling of Network in Network
(Lin et al., ICLR 2014) instead of the large linear layers.
"""

from torch import nn

from qprune.networks.layers import pooled, require_size, scaled, vgg_layers

LAYOUT = (16, 16, "M", 32, 32, "M", 64, 64)


def build(in_channels: int, num_classes: int, image_size: int, width: float = 1.0) -> nn.Module:
    """[n, in_channels, image_size, image_size] -> [n, num_classes]."""
    require_size("vgg_tiny", image_size, 4)
    layers = vgg_layers(LAYOUT, in_channels, width)
    return pooled(layers, scaled(LAYOUT[-1], width), num_classes)
