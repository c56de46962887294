"""ds_cnn: MLPerf Tiny's network for keywords (Zhang et al., "Hello edge", 2017, DS-CNN small; Banbury et al., NeurIPS 2021
Datasets and Benchmarks; kws of mlcommons/tiny): a 10x4 convolution of stride 2, four depthwise separable blocks with 64
channels, global average pooling, linear; dropout of 0.2 after the first layer and of 0.4 after the last block.

There it takes spectrograms of 49 times by 10 bands and has 12 classes: 2.66 M MACs, 22,016 weights. Here it takes square
images: at 1x28x28 and 10 classes it has 23,050 parameters and 4.5 M MACs. Convolutions have no bias, for BN follows each.
"""

from collections import OrderedDict

from torch import nn

from qprune.networks.layers import conv_bn, pooled, require_size, scaled


def build(in_channels: int, num_classes: int, image_size: int, width: float = 1.0) -> nn.Module:
    """[n, in_channels, image_size, image_size] -> [n, num_classes]; other shapes of images will do too."""
    require_size("ds_cnn", image_size, 2)
    channels = scaled(64, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(in_channels, channels, (10, 4), stride=2, padding=(5, 1), bias=False)
    layers["bn1"], layers["relu1"], layers["dropout1"] = nn.BatchNorm2d(channels), nn.ReLU(), nn.Dropout(0.2)
    for number in range(1, 5):
        block: OrderedDict[str, nn.Module] = OrderedDict()
        block["depthwise"] = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        block["bn1"], block["relu1"] = nn.BatchNorm2d(channels), nn.ReLU()
        block["pointwise"], block["bn2"] = conv_bn(channels, channels, kernel_size=1)
        block["relu2"] = nn.ReLU()
        layers[f"block{number}"] = nn.Sequential(block)
    layers["dropout2"] = nn.Dropout(0.4)
    return pooled(layers, channels, num_classes)
