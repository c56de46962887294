"""mnist: 70,000 handwritten digits, grey, 28x28 (LeCun, Bottou, Bengio & Haffner, Proc. IEEE 1998).

The official 10,000 test images are the test split; 6,000 of the 60,000 training images are held out as val.
"""

from qprune.data.idx import idx_source

SOURCE = idx_source("mnist", "MNIST", tuple(str(digit) for digit in range(10)))
