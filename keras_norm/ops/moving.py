"""Moving averages of moments."""

import math

import keras
from keras import ops

from keras_norm.ops.convert import convert


def moving_averages(averages, moments, momenta):
    """Returns moving averages after they have seen one more batch.

    Args:
        averages: Arrays of the same shape: the moving mean and the moving variance.
        moments: `Moments` of the batch, constants of any shape of the same size. Moments of an
            empty batch, and moments that are not finite, leave the averages unchanged.
        momenta: For each average a number in [0, 1]: how much of it stays.

    Returns:
        A list of two arrays of the shapes and dtypes of `averages`.
    """
    found = []
    means = moments.mean, moments.variance
    is_usable = moments.count > 0
    for batch in means:
        is_usable = is_usable & (abs(batch) < math.inf)  # NaN is not
    is_usable = ops.all(is_usable)
    for old, batch, momentum in zip(averages, means, momenta, strict=True):
        batch = convert(batch, keras.backend.standardize_dtype(old.dtype), old.shape)
        found.append(ops.where(is_usable, old * momentum + batch * (1.0 - momentum), old))
    return found
