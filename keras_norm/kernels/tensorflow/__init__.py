"""Kernels for TensorFlow, with and without XLA.

The gradient is written by hand: two sums by sample and channel serve the moments, gamma and beta,
and one more pass gives the result. The moments are sums of the input and of its squares, unless a
mean is far from zero: without XLA, each operation reads and writes memory once more. TensorFlow has
a few fused ones, which `multiplied` and `sums` use where they are exact.

Masks decline, and so do axes too long, or possibly too long, to add up in a few stages.
"""

from keras_norm.kernels.tensorflow.functions import normalize

__all__ = ["normalize"]
