"""How XLA's executors see an array: few axes, and which of them sums run over."""

import math

from keras import ops

from keras_norm.kernels.plan import AFTER, BEFORE, GROUPS, SAMPLES

# Means of up to so many deviations are exact without a shift: their squares cost one bit.
# benchmarks/accuracy.py measures it.
LARGEST_MEAN = 1.0
# Elements of each axis that a long axis is viewed as. benchmarks/accuracy.py measures long rows.
LONGEST_STAGE = 512


class View:
    """The arrays of a plan with few axes.

    With positions, the axes are (samples, positions before, channels, positions after); sums run
    over the positions, and over the channels of a group afterwards. Without positions, they are
    (samples, groups, members), and sums run over the members. Axes of size 1 are left out, and
    those of positions stay as they are: XLA may take ten times as long for sums in another view.

    Args:
        plan: `Plan`.
        before, after: Sizes of the axes of positions, whose products are those of the plan.

    Attributes:
        shape: Sizes of the input in the view; -1 for one that is unknown.
        parts: The part of the plan that each axis belongs to.
        positions: The axes that sums run over.
        is_by_channel: Whether there are positions.
    """

    def __init__(self, plan, before, after):
        self.plan = plan
        samples, _, groups, group_size, _ = plan.form
        before, after = tuple(before), tuple(after)
        self.is_by_channel = bool(before or after)
        channels = (groups * group_size,) if self.is_by_channel else (groups, group_size)
        axes = [(SAMPLES, samples)] if samples != 1 else []
        axes += [(BEFORE, size) for size in before]
        axes += [(GROUPS, n) for i, n in enumerate(channels) if n != 1 or i == len(channels) - 1]
        axes += [(AFTER, size) for size in after]
        self.parts = tuple(part for part, _ in axes)
        self.shape = tuple(-1 if size is None else size for _, size in axes)
        positions = tuple(a for a, part in enumerate(self.parts) if part in (BEFORE, AFTER))
        self.positions = positions or (len(axes) - 1,)
        self.rank = len(axes)

    def of(self, x):
        """Returns the input in the view."""
        return ops.reshape(self._ordered(x), self.shape)

    def back(self, y):
        """Returns an array in the view in the shape of the input."""
        return self._as_given(ops.reshape(y, _open(self.plan.sizes)))

    def parameter(self, values, default, dtype):
        """Returns gamma or beta in the view; None stands for a default."""
        if values is None:
            return ops.full(self._sizes(GROUPS), default, dtype)
        return ops.reshape(values, self._sizes(GROUPS))

    def weights(self, weights):
        """Returns a mask in the view, 1 where it is broadcast."""
        expanded, form = self.plan.mask
        weights = self._ordered(ops.convert_to_tensor(weights))
        given = weights.shape
        # One size may be unknown; the mask has it then, too.
        weights = ops.broadcast_to(
            weights,
            [
                n if n is not None else ops.shape(weights)[a] if m is None else m
                for a, (n, m) in enumerate(zip(expanded, given, strict=True))
            ],
        )
        return ops.reshape(
            weights, self._sizes(*(part for part in (SAMPLES, BEFORE, AFTER) if form[part] != 1))
        )

    def moment(self, values):
        """Returns moments by sample and channel as moments of sets, of the rank of the input."""
        if self.is_by_channel:
            _, _, groups, group_size, _ = self.plan.form
            values = ops.reshape(values, (-1, groups, group_size))[:, :, 0]
        return self._as_given(ops.reshape(values, _open(self.plan.moments)))

    def of_moment(self, values):
        """Returns moments of sets that are channels in the view."""
        return ops.reshape(self._ordered(values), self._sizes(SAMPLES, GROUPS))

    def count(self, values):
        """Returns counts by sample, or one for all samples, of the rank of the input."""
        is_one = self.plan.mask.form.samples == 1
        sizes = [1] * len(self.plan.counts) if is_one else _open(self.plan.counts)
        return self._as_given(ops.reshape(values, sizes))

    def across(self, values):
        """Returns means by channel as means over all channels of a group."""
        _, _, groups, group_size, _ = self.plan.form
        if not self.is_by_channel or group_size == 1:
            return values
        by_group = ops.reshape(values, (-1, groups, group_size))
        # Not `ops.mean`, which computes in float32 on JAX.
        means = ops.sum(by_group, 2, keepdims=True) / group_size
        means = ops.broadcast_to(means, ops.shape(by_group))
        return ops.reshape(means, ops.shape(values))

    def repeats(self, weights):
        """Returns how many positions share an entry of a mask in the view."""
        return math.prod(self.shape[a] for a in self.positions if weights.shape[a] == 1)

    def _sizes(self, *parts):
        """Returns the view's sizes along the axes of some parts, and 1 along the others."""
        pairs = zip(self.shape, self.parts, strict=True)
        return [size if part in parts else 1 for size, part in pairs]

    def _ordered(self, x):
        return x if self.plan.is_ordered else ops.transpose(x, self.plan.order)

    def _as_given(self, x):
        return x if self.plan.is_ordered else ops.transpose(x, self.plan.inverse)


class Masked:
    """What a mask makes of the arrays of a view; without one, they stay as they are.

    Attributes:
        count: Elements of each set that count, by sample; None if all do.
        total: Elements of each channel of a set that count, by sample, at least 1. None if all
            do, and where the elements of a set count or do not count together: a selection at the
            end will do.
    """

    def __init__(self, view, weights, dtype):
        self.count = self.total = self._counts = None
        if weights is None:
            return
        w = ops.cast(view.weights(weights), dtype)
        self._counts = w > 0
        if view.plan.mask.is_by_set:
            self.count = w * view.plan.form.count
        else:
            total = ops.sum(w, view.positions, keepdims=True) * view.repeats(w)
            self.count = total * view.plan.form.group_size
            self.total = ops.maximum(total, 1)

    def counted(self, x):
        """Returns `x` with 0 for padding, for sums."""
        return x if self._counts is None else ops.where(self._counts, x, ops.zeros_like(x))

    def held(self, x, like=None):
        """Returns `x` with 0 for padding that is not finite (in `like`, if that is given)."""
        if self.total is None:
            return self.counted(x)
        kept = ops.logical_or(self._counts, ops.isfinite(x if like is None else like))
        return ops.where(kept, x, ops.zeros_like(x))

    def selected(self, inverse):
        """Returns 1 / deviation, 0 for empty sets."""
        if self.count is None:
            return inverse
        return ops.where(self.count > 0, inverse, ops.zeros_like(inverse))


def _open(sizes):
    return [-1 if size is None else size for size in sizes]
