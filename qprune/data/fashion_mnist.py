"""fashion_mnist: 70,000 pieces of clothing, grey, 28x28 (Xiao, Rasul & Vollgraf, arXiv:1708.07747).

The official 10,000 test images are the test split; 6,000 of the 60,000 training images are held out as val.
Debian's package dataset-fashion-mnist is found by itself.
"""

from pathlib import Path

from qprune.data.idx import idx_source

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

SOURCE = idx_source(
    "fashion_mnist",
    "FashionMNIST",
    CLASS_NAMES,
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
)
