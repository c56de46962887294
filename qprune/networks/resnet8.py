"""resnet8: MLPerf Tiny's network for CIFAR-10 (Banbury et al., NeurIPS 2021 Datasets and Benchmarks; resnet_v1_eembc of
mlcommons/tiny): a 3x3 convolution and three residual blocks with 16, 32 and 64 channels, global average pooling, linear.

The shortcuts into a new stage are 1x1 convolutions with a bias and without BN, as there. Convolutions that BN follows have
no bias, for BN has one: so there are 77,946 parameters where Keras counts 78,666 (240 biases more, and BN's 480 running
statistics). 77,360 of them are weights. 12.5 M MACs at 3x32x32 and 10 classes.
"""

from collections import OrderedDict

from torch import nn

from qprune.networks import resnet20
from qprune.networks.layers import conv_bn, pooled, require_size, scaled


class Block(resnet20.Block):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__(in_channels, out_channels, stride)
        if stride > 1:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride)


def build(in_channels: int, num_classes: int, image_size: int, width: float = 1.0) -> nn.Module:
    """[n, in_channels, image_size, image_size] -> [n, num_classes]."""
    require_size("resnet8", image_size, 4)
    channels = scaled(16, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"], layers["bn1"] = conv_bn(in_channels, channels)
    layers["relu1"] = nn.ReLU()
    for stage, stage_width in enumerate((16, 32, 64), start=1):
        out_channels = scaled(stage_width, width)
        layers[f"block{stage}"] = Block(channels, out_channels, stride=1 if stage == 1 else 2)
        channels = out_channels
    return pooled(layers, channels, num_classes)
