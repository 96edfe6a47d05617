"""Moments of sets of elements, and the merge that computes them all.

The moments of a union follow from the moments of its parts. Parts can be the elements of an array,
the channels of a group, the samples of a batch, the batches of a population or the replicas of a
training step. An element is a part whose mean is its value and whose variance is 0.

Reference: Chan, Golub, LeVeque, "Algorithms for computing the sample variance: analysis and
recommendations", The American Statistician 37 (1983), 242-247.
"""

import math
from typing import Any, NamedTuple

from keras import ops

from keras_norm.ops.blocks import Blocks


class Moments(NamedTuple):
    """Count, mean and variance of sets of elements, with one entry per set.

    A single float32 cannot represent a mean of 100,000 standard deviations accurately enough: its
    rounding alone is 0.4% of a standard deviation. So the mean is stored as the sum of two numbers,
    `shift + residual`.

    Attributes:
        count: Number of elements of a set (their total weight): a scalar if it is the same for all
            sets, otherwise an array. An empty set has count, mean and variance 0.
        shift: A number near the mean. A constant: no gradient flows through it.
        residual: The mean of the elements minus `shift`.
        variance: The mean squared distance from the mean ("biased", divided by the count).
    """

    count: Any
    shift: Any
    residual: Any
    variance: Any

    @property
    def mean(self):
        """The mean in one number, rounded to its dtype."""
        return self.shift + self.residual


def moments(x, axes, weights=None, *, centered=True, exported=False):
    """Returns the moments of `x` over `axes`.

    The error of the mean, relative to the standard deviation, and the relative error of the
    variance stay near float32's rounding for means of up to 1e5 standard deviations. Derivatives of
    every order equal those of the plain formulas.

    Args:
        x: Array, float32 or float64.
        axes: Axes that a set extends over, counted from the front.
        weights: None, or an array of 0s and 1s that broadcasts against `x`: 0 excludes an element,
            whatever its value.
        centered: Whether to compute the mean; if not, it is 0, and the variance is the mean square.
        exported: Whether the graph may be exported: sums over axes of unknown size are then
            computed in one stage.

    Returns:
        `Moments` with the rank of `x` and size 1 along `axes`.

    Example:
    >>> import keras
    >>> from keras_norm.ops import moments
    >>> found = moments(keras.ops.convert_to_tensor([[1.0, 3.0], [5.0, 5.0]]), axes=[1])
    >>> keras.ops.convert_to_numpy(found.mean).tolist()
    [[2.0], [5.0]]
    >>> keras.ops.convert_to_numpy(found.variance).tolist()
    [[1.0], [0.0]]
    """
    blocks = Blocks(ops.shape(x), axes, split_open=not exported)
    weights = blocks.split_weights(_of_known_size(weights, x))
    count = ops.ones((), x.dtype) if weights is None else ops.cast(weights, x.dtype)
    x = blocks.split(x)
    if centered:
        elements = Moments(count, shift=x, residual=None, variance=None)
    else:
        # The mean square is the variance of elements whose mean is 0.
        masked = x if weights is None else ops.where(weights > 0, x, 0)
        elements = Moments(count, ops.zeros_like(x), residual=None, variance=ops.square(masked))
    merged = merge(elements, blocks.axes(axes))
    return Moments(*(blocks.join_reduced(field) for field in merged))


def _of_known_size(weights, x):
    """Returns weights broadcast along axes of unknown size, which may turn out to be 1."""
    if weights is None or None not in tuple(weights.shape):
        return weights
    pairs = zip(weights.shape, ops.shape(x), strict=True)
    return ops.broadcast_to(weights, [1 if own == 1 else size for own, size in pairs])


def merge(parts, axes):
    """Returns the moments of the unions of parts along `axes`.

    Args:
        parts: `Moments` whose entries along `axes` are the parts. `residual` and `variance` may
            be None, for 0: then each part is one value, `shift`, which gradients flow through.
        axes: Axes to merge over, counted from the front.

    Returns:
        `Moments` with size 1 along `axes`.

    Example:
    >>> import keras
    >>> from keras_norm.ops import merge, moments
    >>> x = keras.ops.convert_to_tensor([[1.0, 3.0], [5.0, 7.0]])
    >>> union = merge(moments(x, axes=[1]), axes=[0])  # of two rows
    >>> float(union.mean[0, 0]), float(union.variance[0, 0])
    (4.0, 5.0)
    """
    of_parts = _equal_parts if len(parts.count.shape) == 0 else _weighted_parts
    count, masked, means = of_parts(parts, axes)
    (mean,) = means(masked(parts.shift if parts.residual is None else parts.mean))
    shift = shared_shift(mean)
    return Moments(count, shift, *moments_around(shift, parts, masked, means))


def _equal_parts(parts, axes):
    """Returns the count of a union of parts that have the same count, and two functions.

    Returns:
        count: The number of elements of the union.
        masked: A function that replaces the values of empty parts by 0.
        means: A function of arrays with one value for each part. It returns the list of their means
            over the parts, weighted by the parts' counts.
    """
    size = math.prod([ops.shape(parts.shift)[axis] for axis in axes])
    count = parts.count * _number(size, parts.count.dtype)
    return count, lambda values: values, lambda *values: [_staged_mean(v, axes) for v in values]


def _weighted_parts(parts, axes):
    """Returns the same as `_equal_parts` for parts whose counts differ."""
    sizes = ops.shape(parts.shift)
    repeats = math.prod([sizes[axis] for axis in axes if parts.count.shape[axis] == 1])
    count = ops.sum(parts.count, axis=tuple(axes), keepdims=True)
    count = count * _number(repeats, count.dtype)
    size = _number(math.prod([sizes[axis] for axis in axes]), count.dtype)
    share = ops.where(count > 0, count, 1) / size

    def masked(values):
        return ops.where(parts.count > 0, values, 0)

    def means(*values):
        return [_staged_mean(parts.count * v, axes) / share for v in values]

    return count, masked, means


def shared_shift(mean):
    """Returns the rounded mean of a union, the constant that is subtracted from all parts."""
    mean = ops.stop_gradient(mean)
    # All uses must see the same rounded shift. Without this selection, compilers contract the
    # division in the mean with its subtraction into one instruction, which rounds differently.
    return ops.where(ops.isfinite(mean), mean, 0)


def moments_around(shift, parts, masked, means):
    """Returns the residual and the variance of a union.

    Args:
        shift: The `shared_shift` of the union.
        parts: `Moments` of the parts.
        masked: A function that replaces the values of empty parts by 0.
        means: A function of arrays with one value for each part. It returns the list of their means
            over the parts, weighted by the parts' counts.
    """
    # Exact where the part's shift is within a factor of 2 of the union's (Sterbenz's lemma).
    distance = parts.shift - shift
    if parts.residual is not None:
        distance = distance + parts.residual
    distance = masked(distance)
    square = ops.square(distance)
    if parts.variance is not None:
        square = square + parts.variance
    residual, mean_square = means(distance, square)
    variance = mean_square - ops.square(residual)
    return residual, ops.where(variance < 0, 0, variance)


def _staged_mean(values, axes):
    """Returns the mean over `axes`, one axis at a time, keeping size 1; the mean of none is 0.

    The division between two sums keeps XLA from fusing them into one long sum.
    """
    for axis in sorted(axes, reverse=True):
        size = ops.shape(values)[axis]
        if ops.is_tensor(size):
            size = ops.maximum(size, 1)
        elif size == 0:  # `max` would compare symbolic sizes, which JAX cannot always do
            size = 1
        values = ops.sum(values, axis=axis, keepdims=True) / _number(size, values.dtype)
    return values


def _number(size, dtype):
    """Returns a size to calculate with; PyTorch's exporter would fix the value of a cast int."""
    return ops.cast(size, dtype) if ops.is_tensor(size) else size
