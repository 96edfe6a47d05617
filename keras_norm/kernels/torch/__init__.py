"""Kernels for PyTorch on the CPU, run eagerly.

Eager PyTorch has operations that run at the speed of memory and others that are ten times slower;
and some that are fast keep a mean in one float32, or add up thousands of rows one after the other.
`sets` is written with the fast ones, and gives them what they are exact for: data whose mean is
near zero (else what is left after subtracting the mean, at the cost of a pass), and sums that are
not too long. Kept for the backward pass are the input and the moments of its sets.

Everything else declines: other devices, compiled and exported graphs, `torch.func`, forward-mode
derivatives, subclasses of tensors, masks, and axes in an order that `layout` does not know.
"""

from keras_norm.kernels.torch.functions import normalize, standardize

__all__ = ["normalize", "standardize"]
