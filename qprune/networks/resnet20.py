"""resnet20: the residual network for CIFAR (He et al., CVPR 2016, section 4.2): three stages of three blocks
with 16, 32 and 64 channels, global average pooling, linear.

The shortcuts into a new stage are option B, a 1x1 convolution with BN, not the paper's option A (padding with
zero channels): so every channel of a sum is made by a layer, and can be removed from it. The other shortcuts
are identities. 272,474 parameters and 40.8 M MACs at 3x32x32 and 10 classes.
"""

from collections import OrderedDict

from torch import Tensor, nn

from qprune.networks.layers import conv_bn, pooled, require_size, scaled


class Block(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, out_channels, stride=stride)
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = conv_bn(out_channels, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            conv, bn = conv_bn(in_channels, out_channels, kernel_size=1, stride=stride)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, bn=bn))
        self.relu2 = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:  # [n, in, h, w] -> [n, out, h / stride, w / stride]
        inner = self.relu1(self.bn1(self.conv1(images)))
        return self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(images))


def build(in_channels: int, num_classes: int, image_size: int, width: float = 1.0) -> nn.Module:
    """[n, in_channels, image_size, image_size] -> [n, num_classes]."""
    require_size("resnet20", image_size, 4)
    channels = scaled(16, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"], layers["bn1"] = conv_bn(in_channels, channels)
    layers["relu1"] = nn.ReLU()
    for stage, stage_width in enumerate((16, 32, 64), start=1):
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for block in range(1, 4):
            out_channels = scaled(stage_width, width)
            blocks[f"block{block}"] = Block(channels, out_channels, stride=2 if stage > 1 and block == 1 else 1)
            channels = out_channels
        layers[f"stage{stage}"] = nn.Sequential(blocks)
    return pooled(layers, channels, num_classes)
