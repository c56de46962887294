"""Images and a network that train in no time."""

import torch
from torch import nn

from qprune.data import Split


def classes(count: int = 48) -> Split:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(0, 4, (count,), generator=generator))


def images_and_labels(count: int = 64):
    """Five classes that can be learnt: the place of a bright bar."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (count,), generator=generator)
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=generator)
    images[torch.arange(count), 0, labels] += 180
    return images.to(torch.uint8), labels


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 4)
    )
