"""cifar100: 100 (fine) classes of colour images, 32x32. The official 10,000 test images are the test split;
5,000 of the 50,000 training images are held out as val.
"""

from qprune.data.cifar import cifar_source

SOURCE = cifar_source("cifar100", "CIFAR100", "cifar-100-python", ("train", "test", "meta"))
