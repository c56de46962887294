"""What the results of a test depend on, of the machine that runs it."""

from qprune.precision.torch_ao import kernels

INT8_ACTIVATIONS = kernels().activations[1].bit_length()  # bits: 8, or 7 where sums of 8-bit products would saturate
