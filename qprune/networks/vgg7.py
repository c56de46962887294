"""vgg7: the network of the quantisation literature for CIFAR-10, 2x128C3 - MP2 - 2x256C3 - MP2 - 2x512C3 - MP2 -
1024FC - Softmax (Li & Liu, "Ternary Weight Networks", arXiv:1605.04711, section 3; the VGG-7 of Bayesian Bits,
van Baalen et al., NeurIPS 2020, and of DJPQ, Wang et al., ECCV 2020).

With BN after each convolution, none after the linear layer; the softmax is the loss's. 12,978,058 parameters
and 615.9 M MACs at 3x32x32 and 10 classes.
"""

from torch import nn

from qprune.networks.layers import initialise, require_size, scaled, vgg_layers

LAYOUT = (128, 128, "M", 256, 256, "M", 512, 512, "M")


def build(in_channels: int, num_classes: int, image_size: int, width: float = 1.0) -> nn.Module:
    """[n, in_channels, image_size, image_size] -> [n, num_classes]."""
    require_size("vgg7", image_size, 8)
    layers = vgg_layers(LAYOUT, in_channels, width)
    hidden = scaled(1024, width)
    layers["flatten"] = nn.Flatten(1)
    layers["linear1"] = nn.Linear(scaled(LAYOUT[-2], width) * (image_size // 8) ** 2, hidden)
    layers["relu7"] = nn.ReLU()
    layers["linear2"] = nn.Linear(hidden, num_classes)
    return initialise(nn.Sequential(layers))
