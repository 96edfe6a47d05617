"""Moving averages of moments."""

import math

import keras
from keras import ops

from keras_norm.ops.convert import convert


def moving_averages(averages, moments, momenta):
    """Returns moving averages, updated with one more batch.

    Args:
        averages: Arrays of the same shape: the moving mean and the moving variance.
        moments: `Moments` of the batch: constants of the same size, in any shape. An empty set
            leaves its averages unchanged; moments that are not finite leave all of them unchanged.
        momenta: For each average, a number in [0, 1]: the weight of the old value.

    Returns:
        A list of two arrays of the shapes and dtypes of `averages`.

    Example:
    >>> import keras
    >>> from keras_norm.ops import moments, moving_averages
    >>> averages = keras.ops.zeros((1,)), keras.ops.ones((1,))
    >>> x = keras.ops.convert_to_tensor([[1.0], [7.0]])  # mean 4, variance 9
    >>> averages = moving_averages(averages, moments(x, axes=[0]), momenta=(0.5, 0.75))
    >>> [float(average[0]) for average in averages]
    [2.0, 3.0]
    """
    found = []
    mean, variance = moments.mean, moments.variance
    # NaN is not less than infinity. There is one count for all sets, or one for each.
    is_usable = ops.all(abs(mean) + variance < math.inf) & (moments.count > 0)
    for average, batch, momentum in zip(averages, (mean, variance), momenta, strict=True):
        dtype = keras.backend.standardize_dtype(average.dtype)
        old, batch = convert(average, dtype, mean.shape), convert(batch, dtype)
        new = _where(is_usable, old * momentum + batch * (1.0 - momentum), old)
        found.append(convert(new, dtype, average.shape))
    return found


def _where(condition, values, others):
    """Returns `ops.where`; on PyTorch by a method, as `keras.ops` takes 7 times as long."""
    if hasattr(values, "where"):
        return values.where(condition, others)
    return ops.where(condition, values, others)
