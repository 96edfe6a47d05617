"""Sums in stages: exact, and such that XLA fuses the first one with what it sums."""

import math

import tensorflow as tf

# XLA sums up to so many in a loop that also makes what it sums; more in windows, from memory.
WINDOW = 32
# Axes that have more positions together are summed over one after the other.
MOST_POSITIONS = 2048


def parts(sizes, axes):
    """Returns which axis to see as two, and their sizes, so that the first is a sum by itself.

    Args:
        sizes: Sizes of an array, -1 for one that is unknown.
        axes: The axes to sum over.

    Returns:
        A dictionary with one axis, or none.
    """
    known = [axis for axis in axes if sizes[axis] > 0]
    if not known:
        return {}
    *others, axis = known
    size = sizes[axis]
    part = max(n for n in range(1, WINDOW + 1) if size % n == 0)
    # What remains is to be a sum in windows, or else both are one loop, which is slow where it
    # does not read neighbours.
    remaining = max([size // part, *(sizes[other] for other in others)])
    if 1 < part < size and (remaining > WINDOW or axis == len(sizes) - 1):
        return {axis: (part, size // part)}
    return {}


def mean(x, view):
    """Returns the means of the sets; the division between two sums keeps XLA from joining them."""
    return view.across(_mean(x, _stages(x, view)))


def mean_square(x, view):
    """Returns the means of squares, which a norm does not write to memory; XLA would."""
    stage, *stages = _stages(x, view) or [[]]

    # The gradient of the norm itself is NaN where all is 0.
    @tf.custom_gradient
    def sum_of_squares(x):
        norm = tf.math.reduce_euclidean_norm(tf.stop_gradient(x), stage, keepdims=True)
        return tf.square(norm), lambda g: 2.0 * g * x

    return view.across(_mean(sum_of_squares(x) / _size(x, stage), stages))


def sum_over(x, view):
    """Returns the sums over the axes that a view sums over."""
    return _sum(x, _stages(x, view))


def sum_like(x, v):
    """Returns the sum of x that has the shape of v."""
    axes = [axis for axis, size in enumerate(v.shape) if size == 1 != x.shape[axis]]
    return _sum(x, [[axis] for axis in reversed(axes)])


def count(x, view):
    """Returns how many elements of x are summed."""
    return _size(x, [axis for stage in _stages(x, view) for axis in stage])


def _stages(x, view):
    """Returns the axes to sum over in turn: few and short, as the error of a sum grows with it."""
    positions = [view.positions]
    if math.prod(x.shape[axis] for axis in view.positions) > MOST_POSITIONS:
        positions = [[axis] for axis in reversed(view.positions)]
    return [stage for stage in (view.part, *positions, view.batch) if stage]


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
