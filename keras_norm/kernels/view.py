"""What the kernels for XLA share: how they view an array, and when they shift it."""

import math

from keras import ops

# Moments of data whose means are this many deviations from zero lose nothing that shows.
LARGEST_MEAN = 1.0


def spanned_axes(gamma, beta):
    """Returns the axes that gamma and beta span; None if these are not the same."""
    shapes = {tuple(v.shape) for v in (gamma, beta) if v is not None}
    if len(shapes) > 1:
        return None
    return tuple(axis for shape in shapes for axis, size in enumerate(shape) if size != 1)


class View:
    """An array with few axes, and the axes to sum over.

    Axes of size 1 are left out, and neighbours that gamma and beta span are one axis of channels:
    with a short axis at the end, XLA may take ten times as long for a sum. What a set is of these
    channels, `across` knows. Only where gamma and beta span all axes of a set the sums run over
    these.

    Args:
        sizes: Sizes of the array; None for a batch of unknown size.
        axes: The axes that a set extends over.
        spanned: The axes that gamma and beta span.
        parts: None, or a function of `sizes` and the axes to sum over. It returns a dictionary
            with the axis that becomes two, and their sizes.

    Attributes:
        rank: How many axes the view has.
        part: A list of the first of the two axes that an axis became; empty if none did.
        batch: A list of what the first axis of the array became else, if it is summed.
        positions: A list of the other axes of the view to sum over.
        is_by_channel: Whether sums run over other axes than gamma and beta span.
    """

    def __init__(self, sizes, axes, spanned, parts=None):
        inner = [axis for axis in axes if axis not in spanned]
        summed = inner or axes
        self.is_by_channel = bool(inner)
        self._outer = tuple(axis for axis in axes if axis not in summed)
        sizes = [-1 if size is None else size for size in sizes]
        self._set_sizes = [1 if axis in axes else size for axis, size in enumerate(sizes)]
        self._outer_size = math.prod(sizes[axis] for axis in self._outer)
        self._channel_sizes = [1 if axis in summed else size for axis, size in enumerate(sizes)]
        parts = {} if parts is None else parts(sizes, summed)
        # For each axis of the view the axes that it is made of, and its size if it is a part.
        self._axes: list = []
        self.part, self.positions, self.batch = [], [], []
        for axis, size in enumerate(sizes):
            if inner and axis in spanned and axis - 1 in spanned:
                self._axes[-1][0].append(axis)
            elif size != 1:
                for part in parts.get(axis, [None]):
                    if axis in summed:
                        is_first = part is not None and not self.part
                        found = self.batch if axis == 0 else self.positions
                        (self.part if is_first else found).append(len(self._axes))
                    self._axes.append(([axis], part))
        self.rank = len(self._axes)

    def of(self, x):
        """Returns an array, with sizes of the original or 1, in the view."""
        sizes = []
        for made_of, part in self._axes:
            size = math.prod(-1 if n is None else n for n in (x.shape[axis] for axis in made_of))
            sizes.append(size if part is None or size == 1 else part)
        return ops.reshape(x, sizes)

    def across(self, values):
        """Returns what was found by channel, as means over all channels of a set."""
        if not self._outer:
            return values
        by_axis = ops.reshape(values, self._channel_sizes)
        # Not `ops.mean`, which computes in float32 on JAX.
        means = ops.sum(by_axis, self._outer, keepdims=True) / self._outer_size
        return ops.reshape(ops.broadcast_to(means, ops.shape(by_axis)), ops.shape(values))

    def moment(self, values):
        """Returns a moment with the rank of the original and size 1 along the axes of a set."""
        if self._outer:
            first = [slice(1 if a in self._outer else None) for a in range(len(self._set_sizes))]
            values = ops.reshape(values, self._channel_sizes)[tuple(first)]
        return ops.reshape(values, self._set_sizes)
