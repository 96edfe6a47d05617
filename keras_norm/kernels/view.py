"""The view of a plan's arrays, with few axes, that graphs use, and means over its axes."""

import itertools
import math

from keras import ops

from keras_norm.kernels.plan import AFTER, BEFORE, GROUPS, SAMPLES
from keras_norm.ops.convert import convert

# The options of a `Problem` that the executors with this view know.
OPTIONS = "centered", "exported", "mask", "moments", "renorm", "replicas"
# The length of the short axes that a long axis is viewed as. An axis without a suitable divisor, or
# of unknown size, is summed in rows of the longest length. A divisor below the shortest would leave
# too many rows. benchmarks/accuracy.py measures the error on long rows.
LONGEST_STAGE = 512
SHORTEST_STAGE = 32


def short(size, longest):
    """Returns the sizes that an axis is viewed as; `(size,)` if it has no suitable divisors."""
    if size is None or size <= longest:
        return (size,)
    divisors = (n for n in range(LONGEST_STAGE, SHORTEST_STAGE - 1, -1) if size % n == 0)
    stage = next(divisors, None)
    return (size,) if stage is None else (*short(size // stage, longest), stage)


def total(x, axes, longest, levels=2):
    """Returns the sum over some axes, which keep size 1.

    Where a single axis is, or may be, longer than `longest`, rows of the axis are summed first. The
    number of such stages is `levels`.
    """
    size = x.shape[axes[0]]
    if len(axes) > 1 or levels == 0 or (size is not None and size <= longest):
        return ops.sum(x, axes, keepdims=True)
    (axis,) = axes
    sizes = list(ops.shape(x))
    rows = sizes[axis] // LONGEST_STAGE
    before = (slice(None),) * axis
    bulk, rest = slice(rows * LONGEST_STAGE), slice(rows * LONGEST_STAGE, None)
    sizes[axis : axis + 1] = rows, LONGEST_STAGE
    sums = ops.sum(ops.reshape(x[(*before, bulk)], sizes), axis + 1)
    # Halving and doubling is exact, and keeps XLA from joining the two sums.
    sums = total(sums * 0.5, axes, longest, levels - 1) * 2
    return sums + ops.sum(x[(*before, rest)], axis, keepdims=True)


class View:
    """The arrays of a plan with few axes.

    With positions, the axes are (samples, positions before, channels, positions after); means run
    over the positions, and over the channels of a group afterwards. Without positions, they are
    (samples, groups, members), and means run over the members. Axes of size 1 are left out. Other
    axes are joined only where the caller does so: XLA takes up to ten times as long for sums in
    some views, and may write 16-bit input to memory as float32 before a reshape.

    Args:
        plan: `Plan`.
        sizes: Two lists, for the axes of positions before and after the channels: the sizes that
            each axis is viewed as.
        longest: Elements of an axis that one sum may run over.
        most: Elements of several axes that one sum may run over.
        first: The axis, among the view's positions, that is summed separately and first; or None.

    Attributes:
        shape: Sizes of the input in the view; None for an unknown size.
        parts: The part of the plan that each axis belongs to.
        positions: The axes that means run over.
        is_by_channel: Whether there are positions.
        stages: Groups of axes, summed one group after another.
    """

    def __init__(self, plan, sizes, longest, most, first=None):
        self.plan, self.longest = plan, longest
        before, after = (tuple(itertools.chain(*part)) for part in sizes)
        _, _, groups, group_size, _ = plan.form
        self.is_by_channel = bool(before or after)
        channels = (groups * group_size,) if self.is_by_channel else (groups, group_size)
        axes = [(SAMPLES, size) for size in plan.sizes_of(SAMPLES)]
        axes += [(BEFORE, size) for size in before]
        axes += [(GROUPS, n) for i, n in enumerate(channels) if n != 1 or i == len(channels) - 1]
        axes += [(AFTER, size) for size in after]
        self.parts = tuple(part for part, _ in axes)
        self.shape = tuple(size for _, size in axes)
        positions = tuple(a for a, part in enumerate(self.parts) if part in (BEFORE, AFTER))
        self.positions = positions or (len(axes) - 1,)
        unknown = iter([axis for axis, size in enumerate(plan.sizes) if size is None])
        self._axes = [next(unknown) if size is None else None for size in self.shape]
        self.stages = self._stages(most, None if first is None else self.positions[first])

    def _stages(self, most, first):
        """Returns the groups of axes to sum over; a group has at most `most` elements."""
        stages = [] if first is None else [[first]]
        count = None
        for axis in reversed([axis for axis in self.positions if axis != first]):
            size = self.shape[axis]
            if count is None or size is None or count * size > most:
                stages.append([])
                count = 1
            stages[-1].append(axis)
            count = None if size is None else count * size
        return tuple(tuple(sorted(stage)) for stage in stages)

    def suits(self, problem):
        """Returns whether sets are channels of one batch, where a problem changes their moments."""
        is_changed = problem.replicas or problem.renorm
        return not is_changed or (self.is_by_channel and self.plan.form.is_batch)

    def of(self, x):
        """Returns the input in the view."""
        return ops.reshape(self._ordered(x), self._filled(self.shape, x, self._axes))

    def back(self, y, x):
        """Returns an array in the view in the shape of the input `x`."""
        return self._as_given(ops.reshape(y, self._filled(self.plan.sizes, x)))

    def parameter(self, values, default, dtype):
        """Returns gamma or beta in the view; None means the default."""
        if values is None:
            return ops.full(self._sizes(GROUPS), default, dtype)
        return ops.reshape(convert(values, dtype), self._sizes(GROUPS))

    def weights(self, weights, x):
        """Returns a mask of the input `x` in the view, 1 where it is broadcast."""
        expanded, form = self.plan.mask
        weights = self._ordered(ops.convert_to_tensor(weights))
        whole = [ops.shape(x)[axis] for axis in self.plan.order]
        weights = ops.broadcast_to(
            weights, [1 if n == 1 else m for n, m in zip(expanded, whole, strict=True)]
        )
        parts = [part for part in (SAMPLES, BEFORE, AFTER) if form[part] != 1]
        return ops.reshape(weights, self._filled(self._sizes(*parts), x, self._axes))

    def moment(self, values, x):
        """Returns moments by sample and channel as moments of sets, of the rank of the input."""
        if self.is_by_channel:
            _, _, groups, group_size, _ = self.plan.form
            values = ops.reshape(values, (-1, groups, group_size))[:, :, 0]
        return self._as_given(ops.reshape(values, self._filled(self.plan.moments, x)))

    def of_moment(self, values):
        """Returns moments of sets that are channels in the view."""
        return ops.reshape(self._ordered(values), self._sizes(GROUPS))

    def count(self, values, x):
        """Returns counts by sample, or one count for all samples, in the rank of the input."""
        is_one = self.plan.mask.form.samples == 1
        sizes = [1] * len(self.plan.counts) if is_one else self._filled(self.plan.counts, x)
        return self._as_given(ops.reshape(values, sizes))

    def mean(self, x):
        """Returns means over the positions; 0 over none. Divisions keep XLA from joining sums."""
        for axes in self.stages:
            x = total(x, axes, self.longest) / self.size(x, axes)
        return x

    def size(self, x, axes=None, dtype=None):
        """Returns the number of elements along axes of an array in the view, at least 1.

        If a size is unknown, the result is a tensor of the given dtype, or that of `x`.
        """
        axes = self.positions if axes is None else axes
        sizes = [x.shape[axis] for axis in axes]
        if None not in sizes:
            return max(1, math.prod(sizes))
        shape = ops.shape(x)
        return ops.cast(ops.maximum(math.prod(shape[axis] for axis in axes), 1), dtype or x.dtype)

    def over_samples(self, x):
        """Returns the sum over the samples, in stages, of an array without positions."""
        rank = self.parts.count(SAMPLES)
        if not rank:
            return x
        merged = ops.reshape(x, (-1, *x.shape[rank:]))
        # In short stages: if gradients of many samples are equal, as before a pooling layer, a long
        # sum would round all of them in the same direction.
        sums = total(merged, (0,), LONGEST_STAGE)
        return ops.reshape(sums, (1,) * rank + tuple(x.shape[rank:]))

    def spread(self, values, like):
        """Returns numbers by channel as numbers by sample; gradients to them are sums in stages.

        Few samples are left to broadcasting.
        """
        samples = math.prod(ops.shape(like)[: self.parts.count(SAMPLES)])
        if isinstance(samples, int) and samples <= self.longest:
            return values
        # Not of a negative number, whose quotient ONNX rounds up.
        stages = (samples + LONGEST_STAGE - 1) // LONGEST_STAGE
        channels = math.prod(values.shape)
        # Halving and doubling is exact, and keeps XLA from joining the two sums.
        v = ops.broadcast_to(ops.reshape(values, (-1,)) * 0.5, (stages, 1, channels))
        v = ops.broadcast_to(v * 2, (stages, LONGEST_STAGE, channels))
        return ops.reshape(ops.reshape(v, (-1, channels))[:samples], ops.shape(like))

    def group_means(self, values):
        """Returns means by channel as means over all channels of a group."""
        _, _, groups, group_size, _ = self.plan.form
        if not self.is_by_channel or group_size == 1:
            return values
        by_group = ops.reshape(values, (-1, groups, group_size))
        # Not `ops.mean`, which computes in float32 on JAX.
        means = ops.sum(by_group, 2, keepdims=True) / group_size
        means = ops.broadcast_to(means, ops.shape(by_group))
        return ops.reshape(means, ops.shape(values))

    def _sizes(self, *parts):
        """Returns the view's sizes along the axes of some parts, and 1 along the others."""
        pairs = zip(self.shape, self.parts, strict=True)
        return [size if part in parts else 1 for size, part in pairs]

    def _filled(self, sizes, x, axes=None):
        """Returns sizes to reshape to: -1 for one unknown size; if several, the sizes of `x`.

        Args:
            sizes: Sizes, None where unknown.
            x: The input.
            axes: The axis of the plan for each size; by default the axes of the plan in order.
        """
        if sum(size is None for size in sizes) <= 1:
            return [-1 if size is None else size for size in sizes]
        known = [ops.shape(x)[axis] for axis in self.plan.order]
        axes = range(len(sizes)) if axes is None else axes
        return [known[a] if size is None else size for size, a in zip(sizes, axes, strict=True)]

    def _ordered(self, x):
        return x if self.plan.is_ordered else ops.transpose(x, self.plan.order)

    def _as_given(self, x):
        return x if self.plan.is_ordered else ops.transpose(x, self.plan.inverse)
