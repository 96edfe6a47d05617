"""Kernels for TensorFlow, with and without XLA.

The gradient is written by hand: two sums by sample and channel serve the moments, gamma and beta,
and one more pass gives the result. Sums take one axis at a time, which is more exact, and faster
than sums over the batch and all positions at once. Moments take two passes and an eighth: means of
an eighth of the data are near enough to shift by (by 2.6 deviations at most).

Masks decline, and so do axes too long, or possibly too long, to add up in one go.
"""

import tensorflow as tf

from keras_norm import ops

LONGEST = 4096


def normalize(
    x,
    axes,
    epsilon,
    gamma=None,
    beta=None,
    weights=None,
    combine=None,
    split_open=True,
    with_moments=True,
):
    """The kernel of `keras_norm.ops.normalize`."""
    if (
        weights is not None
        or combine is not None
        or not isinstance(x, tf.Tensor)
        or x.shape.rank is None
    ):
        return None
    sizes = x.shape
    parameters = [v.shape for v in (gamma, beta) if v is not None]
    spanned = [a for a in range(sizes.rank) if any(shape[a] != 1 for shape in parameters)]
    inner = [axis for axis in axes if axis not in spanned]
    outer = [axis for axis in axes if axis in spanned]
    # A batch of unknown size is fine where its samples are summed first.
    known = [axis for axis in range(sizes.rank) if axis > 0 or inner in ([], [0])]
    if any(sizes[axis] is None or sizes[axis] > LONGEST for axis in known):
        return None
    gamma = tf.ones([1] * sizes.rank, x.dtype) if gamma is None else tf.convert_to_tensor(gamma)
    beta = tf.zeros([1] * sizes.rank, x.dtype) if beta is None else tf.convert_to_tensor(beta)
    y, *moments = _function(inner, outer, epsilon)(x, gamma, beta)
    if not with_moments:
        return y, None
    count = tf.reduce_prod(tf.gather(tf.shape(x), axes))
    return y, ops.Moments(tf.cast(count, x.dtype), *moments)


def _function(inner, outer, epsilon):
    """Returns the function from x, gamma and beta to output, shift, residual and variance."""

    @tf.custom_gradient
    def function(x, gamma, beta):
        shift = tf.stop_gradient(_mean(_eighth(x, [*inner, *outer]), inner, outer))
        # Without this selection compilers contract a multiplication in the mean with the
        # subtractions of it, and not in all places the same way.
        shift = tf.where(tf.math.is_finite(shift), shift, tf.zeros_like(shift))
        centered = x - shift
        residual = _mean(centered, inner, outer)
        variance = _mean(tf.square(centered), inner, outer) - tf.square(residual)
        variance = tf.nn.relu(variance)
        inverse = tf.math.rsqrt(variance + epsilon)
        if inner:
            scale = gamma * inverse
            y = centered * scale + (beta - residual * scale)
        else:
            y = (centered * inverse - residual * inverse) * gamma + beta

        def gradient(g, *_):
            gradients = _gradients if inner else _gradients_of_rows
            return gradients(g, x - shift, residual, inverse, gamma, beta, inner, outer)

        return (y, shift, residual, variance), gradient

    return function


def _gradients(g, centered, residual, inverse, gamma, beta, inner, outer):
    """Returns the gradients of input, gamma and beta."""
    sums = _sum(g, inner)
    products = (_sum(g * centered, inner) - residual * sums) * inverse
    size = tf.cast(tf.maximum(tf.reduce_prod(tf.gather(tf.shape(g), inner)), 1), g.dtype)
    scale = gamma * inverse
    slope = _mean(gamma * products, [], outer) / -size * inverse * inverse
    offset = _mean(gamma * sums, [], outer) / -size * inverse - slope * residual
    dx = g * scale + (centered * slope + offset)
    return dx, _sum_like(products, gamma), _sum_like(sums, beta)


def _gradients_of_rows(g, centered, residual, inverse, gamma, beta, inner, outer):
    """The same where gamma and beta span all axes of a set."""
    standardized = centered * inverse - residual * inverse
    scaled = g * gamma
    first = _mean(scaled, inner, outer)
    second = _mean(scaled * standardized, inner, outer)
    dx = (scaled - first - standardized * second) * inverse
    return dx, _sum_like(g * standardized, gamma), _sum_like(g, beta)


def _mean(x, inner, outer):
    """Returns the mean over `inner`, then over `outer`; their sizes become 1.

    One axis at a time; the division between two sums keeps XLA from making them one.
    """
    for axis in (*reversed(inner), *reversed(outer)):
        size = tf.maximum(tf.shape(x)[axis], 1)  # the mean of nothing is 0
        x = tf.reduce_sum(x, axis, keepdims=True) / tf.cast(size, x.dtype)
    return x


def _sum(x, axes):
    """Returns the sum over axes, which become 1. Halving is exact, and keeps XLA from the same."""
    for axis in reversed(axes):
        x = tf.reduce_sum(x, axis, keepdims=True) * 0.5
    return x * 2.0 ** len(axes)


def _sum_like(x, v):
    """Returns the sum of x that has the shape of v."""
    return _sum(x, [axis for axis, size in enumerate(v.shape) if size == 1 != x.shape[axis]])


def _eighth(x, axes):
    """Returns an eighth of each set, or all if no axis is known to be long enough."""
    axis = max(axes, key=lambda axis: ((x.shape[axis] or 0) >= 16, axis > 0))
    size = x.shape[axis] or 0
    if size < 16:
        return x
    return x[(slice(None),) * axis + (slice(-(-size // 8)),)]
