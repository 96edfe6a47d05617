"""Sums in stages: exact, and such that XLA fuses the first one with what it sums."""

import functools
import itertools
import math

import tensorflow as tf

from keras_norm.kernels.plan import AFTER, BEFORE, stages
from keras_norm.kernels.view import LONGEST_STAGE, View

# XLA sums up to so many in a loop that also makes what it sums; more in windows, from memory.
WINDOW = 32
# Axes that have more positions together are summed over one after the other.
MOST_POSITIONS = 2048


# Elements along an axis that one sum may run over with an error below 1e-6; longer axes are viewed
# as several (benchmarks/accuracy.py, rows of long axes).
LONGEST_AXIS = 4096


class StagedView(View):
    """A view whose sums go in stages.

    Attributes:
        stages: Lists of axes to sum over in turn: few and short, as the error of a sum grows with
            it.
    """

    stages: list

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def of_plan(cls, plan):
        """Returns the view of a plan; None where an axis is too long and has no divisors."""
        before, after = plan.sizes_of(BEFORE), plan.sizes_of(AFTER)
        sizes = [(size,) for size in before + after]
        part = _part(before + after, is_last=bool(after))
        if part:
            index, first, rest = part
            sizes[index] = (first, rest)
        sizes = [_short(axis) for axis in sizes]
        if None in sizes:
            return None
        middle = len(before)
        view = cls(plan, itertools.chain(*sizes[:middle]), itertools.chain(*sizes[middle:]))
        view.stages = view._stages(part and view.positions[len(sum(sizes[: part[0]], ()))])
        return view

    def size(self, x):
        """Returns how many elements a sum over the view's positions adds up."""
        return _size(x, self.positions)

    def _stages(self, part):
        # What is left of an array's first axis is the batch: its size may be unknown.
        batch = [a for a in self.positions if a == 0 != part and self.parts[0] == BEFORE]
        if part == 0 and self.plan.parts[0] == BEFORE:
            batch = [1]
        positions = [a for a in self.positions if a != part and a not in batch]
        stages = [positions]
        if math.prod(self.shape[a] for a in positions) > MOST_POSITIONS:
            stages = [[a] for a in reversed(positions)]
        first = [] if part is None else [part]
        return [stage for stage in (first, *stages, batch) if stage]


def _part(sizes, is_last):
    """Returns which axis to see as two, and their sizes, so that the first is a sum by itself.

    Args:
        sizes: Sizes of the axes to sum over, None for one that is unknown.
        is_last: Whether the last of these is the last axis of the array.

    Returns:
        The index, the size of the part and of the rest; or None.
    """
    known = [index for index, size in enumerate(sizes) if size is not None]
    if not known:
        return None
    *others, index = known
    size = sizes[index]
    part = max(n for n in range(1, WINDOW + 1) if size % n == 0)
    # What remains is to be a sum in windows, or else both are one loop, which is slow where it
    # does not read neighbours.
    remaining = max([size // part, *(sizes[other] for other in others)])
    if 1 < part < size and (remaining > WINDOW or is_last):
        return index, part, size // part
    return None


def _short(sizes):
    """Returns sizes with a long last one as several; None if it has no divisors."""
    *first, last = sizes
    if last is None or last <= LONGEST_AXIS:
        return sizes
    short = stages(last, LONGEST_STAGE)
    return None if short is None else (*first, *short)


def mean(x, view, total=None):
    """Returns the means of the sets; the division between two sums keeps XLA from joining them.

    Args:
        x: Array in the view.
        view: `StagedView`.
        total: None, or how many elements of each channel count; the others are 0.
    """
    if total is not None:
        return view.across(_sum(x, view.stages) / total)
    return view.across(_mean(x, view.stages))


def mean_square(x, view, total=None):
    """Returns the means of squares, which a norm does not write to memory; XLA would."""
    stage, *stages = view.stages

    # The gradient of the norm itself is NaN where all is 0.
    @tf.custom_gradient
    def sum_of_squares(x):
        norm = tf.math.reduce_euclidean_norm(tf.stop_gradient(x), stage, keepdims=True)
        return tf.square(norm), lambda g: 2.0 * g * x

    if total is not None:
        return view.across(_sum(sum_of_squares(x), stages) / total)
    return view.across(_mean(sum_of_squares(x) / _size(x, stage), stages))


def sum_over(x, view):
    """Returns the sums over the axes that a view sums over."""
    return _sum(x, view.stages)


def sum_like(x, v):
    """Returns the sum of x that has the shape of v."""
    axes = [axis for axis, size in enumerate(v.shape) if size == 1 != x.shape[axis]]
    return _sum(x, [[axis] for axis in reversed(axes)])


def _mean(x, stages):
    for stage in stages:
        x = tf.reduce_sum(x, stage, keepdims=True) / _size(x, stage)
    return x


def _sum(x, stages):
    # Halving is exact, and keeps XLA from joining two sums.
    for stage in stages:
        x = tf.reduce_sum(x, stage, keepdims=True) * 0.5
    return x * 2.0 ** len(stages)


def _size(x, axes):
    """Returns how many elements of x lie along axes; 1 for none, as the mean of nothing is 0."""
    sizes = tf.gather(tf.shape(x), tf.constant(axes, tf.int32))
    return tf.cast(tf.maximum(tf.reduce_prod(sizes), 1), x.dtype)
