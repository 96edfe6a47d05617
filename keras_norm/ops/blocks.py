"""Long axes as two short ones, so that sums over them go in stages.

Where a float32 sum runs over 100,000 elements in one go, as on TensorFlow, its error is 1e-5; a
sum of 400 sums of 250 elements each is off by 1e-7. So an axis longer than `LIMIT` is viewed as
two (or more) short ones, and sums take one axis at a time. Where no divisor helps, the axis is
padded, and the padding gets weight 0 like all padding.
"""

import math
from typing import Any

from keras import ops

LIMIT = 512
# TensorFlow broadcasts arrays of up to 8 axes.
MOST_AXES = 8


class Blocks:
    """A view of arrays in which none of the given axes is longer than `LIMIT`, as far as may be.

    The view has up to `MOST_AXES` axes: of more sizes that are unknown, the last stay whole.

    Args:
        shape: Shape of the largest array; the others have its sizes or 1. A size that is unknown
            while a graph is traced is a scalar tensor, as `keras.ops.shape` gives it.
        axes: The axes to view as short ones, counted from the front.
        split_open: Whether also axes of unknown size. Exporters take little arithmetic on sizes.
    """

    def __init__(self, shape, axes, split_open=True):
        self._shape = tuple(shape)
        self._sizes = []
        room = MOST_AXES - len(self._shape)
        for axis, size in enumerate(self._shape):
            can_split = axis in axes and (split_open or isinstance(size, int))
            sizes = _short_sizes(size) if can_split else (size,)
            self._sizes.append(sizes if len(sizes) <= room + 1 else (size,))
            room -= len(self._sizes[-1]) - 1
        # Where each axis of the original starts in the view.
        self._starts = [sum(map(len, self._sizes[:axis])) for axis in range(len(self._sizes))]
        self._padded = [
            axis
            for axis, (size, sizes) in enumerate(zip(self._shape, self._sizes, strict=True))
            if len(sizes) > 1 and not (isinstance(size, int) and math.prod(sizes) == size)
        ]
        self._is_identity = all(len(sizes) == 1 for sizes in self._sizes)

    def axes(self, axes):
        """Returns the axes of the view that the given axes of the original became."""
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
        """Returns `weights` in the view, 0 on what was padded; None stands for weights of 1."""
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
            # Whole where nothing was padded: TensorFlow then knows these sizes still.
            x = x[
                tuple(
                    slice(0, size) if axis in self._padded else slice(None)
                    for axis, size in enumerate(self._shape)
                )
            ]
        return x

    def join_reduced(self, x):
        """Returns `x`, an array in the view with size 1 along what was split, in its old rank."""
        if self._is_identity or len(x.shape) == 0:
            return x
        sizes = ops.shape(x)
        return ops.reshape(x, [sizes[start] for start in self._starts])

    def _padding(self, axis):
        return math.prod(self._sizes[axis]) - self._shape[axis]


def _short_sizes(size):
    """Returns sizes, each at most `LIMIT`, whose product is `size` or as little more as may be."""
    if not isinstance(size, int):
        parts = size // LIMIT + 1
        return parts, (size + parts - 1) // parts
    if size <= LIMIT:
        return (size,)
    fewest = -(-size // LIMIT)
    divisors = (parts for parts in range(fewest, LIMIT + 1) if size % parts == 0)
    parts = next(divisors, fewest)
    return *_short_sizes(parts), -(-size // parts)
