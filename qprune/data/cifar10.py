"""cifar10: 10 classes of colour images, 32x32. The official 10,000 test images are the test split; 5,000 of
the 50,000 training images are held out as val.
"""

from qprune.data.cifar import cifar_source

FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

SOURCE = cifar_source("cifar10", "CIFAR10", "cifar-10-batches-py", FILES)
