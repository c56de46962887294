"""Networks for the tests, traced, with some training steps behind them so that BN's shifts are not zero."""

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from qprune.networks import build_model
from qprune.networks.graph import with_normalize

OWN = ("vgg_tiny", "vgg_small", "vgg7", "resnet8", "resnet20", "ds_cnn")


def make(name: str, image_size: int = 32, num_classes: int = 10, channels: int = 3, **options):
    """A traced network: one of qprune's own, torchvision's by its plain name, or "densenet_small", a DenseNet with
    all that one has but the depth."""
    torch.manual_seed(0)
    if name in OWN:
        model = build_model({"name": name, **options}, channels, num_classes, image_size)
    elif name == "densenet_small":
        model = torchvision.models.DenseNet(8, (2, 3), num_init_features=16, num_classes=num_classes)
    else:
        model = torchvision.models.get_model(name, num_classes=num_classes)
    return with_normalize(model, (0.45,) * channels, (0.25,) * channels)


def batch(n: int = 8, image_size: int = 32, num_classes: int = 10, channels: int = 3):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, channels, image_size, image_size, generator=generator)
    return images, torch.randint(0, num_classes, (n,), generator=generator)


def warm_up(network, images, labels, steps: int = 3, lr: float = 0.02):
    """A few training steps, after which BN has shifts, scales and running statistics of its own."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.bias, -0.3, 0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network


class Plain(nn.Module):
    """conv-BN-ReLU-pool, conv-BN-ReLU, flatten, linear."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(torch.flatten(x, 1))


class Residual(nn.Module):
    """A stem and two blocks whose outputs are added, in place, as torchvision's ResNets do."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.a1, self.an1 = nn.Conv2d(4, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.a2, self.an2 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b1, self.bn1 = nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.b2, self.bn2 = nn.Conv2d(5, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.relu(self.bn(self.stem(x)))
        y = self.an2(self.a2(self.relu(self.an1(self.a1(x)))))
        y += x
        x = self.relu(y)
        y = self.bn2(self.b2(self.relu(self.bn1(self.b1(x)))))
        y += x
        return self.fc(self.relu(y).mean((2, 3)))


class Depthwise(nn.Module):
    """1x1 expand, depthwise, 1x1 project, added to the input, with ReLU6: MobileNet-V2's block."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.expand, self.bn1 = nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.project, self.bn3 = nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.relu6 = nn.ReLU6(inplace=True)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.relu6(self.bn0(self.stem(x)))
        y = self.relu6(self.bn1(self.expand(x)))
        y = self.relu6(self.bn2(self.depthwise(y)))
        x = x + self.bn3(self.project(y))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def small(kind: type):
    """One of the three small networks above, warmed up, with its batch: grey images, 5 classes."""
    torch.manual_seed(3)
    network = with_normalize(kind(), (0.5,), (0.25,))
    images, labels = batch(16, 8, 5, 1)
    return warm_up(network, images, labels), images, labels


class Body(nn.Module):
    """conv-BN-ReLU to 4 maps of 8 x 8, what is tried, 1 x 1 to 6 maps, the mean of each, linear."""

    def __init__(self, tried: nn.Module, channels: int = 4):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.tried, self.last, self.head = tried, nn.Conv2d(channels, 6, 1), nn.Linear(6, 5)

    def forward(self, x):
        x = self.tried(F.relu(self.norm(self.stem(x))))
        return self.head(F.relu(self.last(x)).mean((2, 3)))
