"""Views of long axes as several short ones, so that sums over them are computed in stages.

A single float32 sum over 100,000 elements, as on TensorFlow, has an error of 1e-5; a sum of 400
sums of 250 elements each has an error of 1e-7. So an axis longer than `LIMIT` is viewed as two (or
more) short ones, and sums run over one axis at a time. An axis without a suitable divisor is
padded; the padding has weight 0.
"""

import math
from typing import Any

from keras import ops

LIMIT = 512
# TensorFlow broadcasts arrays of up to 8 axes.
MOST_AXES = 8


class Blocks:
    """A view of arrays in which none of the given axes is longer than `LIMIT`, where possible.

    The view has at most `MOST_AXES` axes; if this is not enough, the last axes are not split.

    Args:
        shape: Shape of the largest array; the others have its sizes or 1. A size that is unknown
            while a graph is traced is a scalar tensor, as returned by `keras.ops.shape`.
        axes: The axes to split, counted from the front.
        split_open: Whether to split axes of unknown size. Exporters support little arithmetic on
            sizes.
    """

    def __init__(self, shape, axes, split_open=True):
        self._shape = tuple(shape)
        self._sizes = []
        spare = MOST_AXES - len(self._shape)
        for axis, size in enumerate(self._shape):
            can_split = axis in axes and (split_open or isinstance(size, int))
            sizes = _short_sizes(size) if can_split else (size,)
            self._sizes.append(sizes if len(sizes) <= spare + 1 else (size,))
            spare -= len(self._sizes[-1]) - 1
        # The position in the view at which each original axis starts.
        self._starts = [sum(map(len, self._sizes[:axis])) for axis in range(len(self._sizes))]
        self._padded = [
            axis
            for axis, (size, sizes) in enumerate(zip(self._shape, self._sizes, strict=True))
            if len(sizes) > 1 and not (isinstance(size, int) and math.prod(sizes) == size)
        ]
        self._is_identity = all(len(sizes) == 1 for sizes in self._sizes)

    def axes(self, axes):
        """Returns the axes of the view that belong to the given original axes."""
        return [
            new
            for axis in axes
            for new in range(self._starts[axis], self._starts[axis] + len(self._sizes[axis]))
        ]

    def split(self, x):
        """Returns `x` in the view; None stays None."""
        if x is None or self._is_identity:
            return x
        padded = [axis for axis in self._padded if x.shape[axis] != 1]
        if padded:
            x = ops.pad(
                x, [(0, self._padding(a) if a in padded else 0) for a in range(len(x.shape))]
            )
        shape: list[Any] = []
        for axis, sizes in enumerate(self._sizes):
            shape += [1] * len(sizes) if x.shape[axis] == 1 else sizes
        return ops.reshape(x, shape)

    def split_weights(self, weights):
        """Returns `weights` in the view, with 0 at padding; None means weights of 1."""
        for axis in self._padded:
            ones = ops.ones([n if a == axis else 1 for a, n in enumerate(self._shape)])
            weights = ones if weights is None else weights * ops.cast(ones, weights.dtype)
        return self.split(weights)

    def join(self, x):
        """Returns `x`, an array in the view, in the original shape."""
        if self._is_identity:
            return x
        x = ops.reshape(x, [math.prod(sizes) for sizes in self._sizes])
        if self._padded:
            # A full slice where nothing was padded, so that TensorFlow still knows these sizes.
            x = x[
                tuple(
                    slice(0, size) if axis in self._padded else slice(None)
                    for axis, size in enumerate(self._shape)
                )
            ]
        return x

    def join_reduced(self, x):
        """Returns `x`, an array in the view with size 1 along split axes, in the original rank."""
        if self._is_identity or len(x.shape) == 0:
            return x
        sizes = ops.shape(x)
        return ops.reshape(x, [sizes[start] for start in self._starts])

    def _padding(self, axis):
        return math.prod(self._sizes[axis]) - self._shape[axis]


def _short_sizes(size):
    """Returns sizes, each at most `LIMIT`, whose product is `size` or slightly more."""
    if not isinstance(size, int):
        parts = size // LIMIT + 1
        return parts, (size + parts - 1) // parts
    if size <= LIMIT:
        return (size,)
    fewest = -(-size // LIMIT)
    divisors = (parts for parts in range(fewest, LIMIT + 1) if size % parts == 0)
    parts = next(divisors, fewest)
    return *_short_sizes(parts), -(-size // parts)
