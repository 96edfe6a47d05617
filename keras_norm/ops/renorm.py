"""The corrections of batch renormalization.

Reference: Ioffe, "Batch renormalization: towards reducing minibatch dependence in
batch-normalized models", 2017, https://arxiv.org/abs/1702.03275
"""

from typing import Any, NamedTuple

from keras import ops

from keras_norm.ops.moving import moving_averages


class Renorm(NamedTuple):
    """What the batch's moments are compared with, and how far corrections may go.

    Attributes:
        mean: Moving mean, of the shape of the moments.
        deviation: Moving standard deviation, of the same shape; sqrt(epsilon) if it is smaller.
        rmin: Number, the least r; None for no bound.
        rmax: Number, the largest r; None for no bound.
        dmax: Number, the largest magnitude of d; None for no bound.
    """

    mean: Any
    deviation: Any
    rmin: float | None = None
    rmax: float | None = None
    dmax: float | None = None


def standard_deviation(variance, epsilon):
    """Returns the standard deviation that elements are divided by."""
    return ops.sqrt(variance + epsilon)


def renorm_corrections(moments, renorm, epsilon):
    """Returns r and d of the correction `r * element + d` of standardized elements.

        r = clip(batch deviation / deviation, rmin, rmax)
        d = clip((batch mean - mean) / deviation, -dmax, dmax)

    Unclipped, the elements are then standardized with `mean` and `deviation`.

    Args:
        moments: `Moments` of the batch.
        renorm: `Renorm`.
        epsilon: Number > 0 that is added to the batch's variance.

    Returns:
        r and d, constants of the shape of the moments; 1 and 0 for empty sets.

    Example:
    >>> import keras
    >>> from keras_norm.ops import Renorm, moments, renorm_corrections
    >>> x = keras.ops.convert_to_tensor([[1.0], [7.0]])  # mean 4, deviation 3
    >>> mean, deviation = keras.ops.zeros((1, 1)), keras.ops.ones((1, 1))
    >>> renorm = Renorm(mean, deviation, rmax=2.0)
    >>> r, d = renorm_corrections(moments(x, axes=[0]), renorm, epsilon=1e-5)
    >>> round(float(r[0, 0]), 3), round(float(d[0, 0]), 3)  # r is clipped
    (2.0, 4.0)
    """
    mean, deviation, rmin, rmax, dmax = renorm
    deviation = ops.maximum(deviation, epsilon**0.5)
    r = standard_deviation(moments.variance, epsilon) / deviation
    # Both parts of the batch's mean are used; otherwise d has the rounding error of a large mean.
    # They are added after the scaling, as compilers may reassociate sums.
    d = (moments.shift - mean) / deviation + moments.residual / deviation
    if rmin is not None:
        r = ops.maximum(r, rmin)
    if rmax is not None:
        r = ops.minimum(r, rmax)
    if dmax is not None:
        d = ops.clip(d, -dmax, dmax)
    has_elements = moments.count > 0
    r, d = ops.where(has_elements, r, 1), ops.where(has_elements, d, 0)
    return ops.stop_gradient(r), ops.stop_gradient(d)


def renorm_averages(averages, moments, momenta, epsilon):
    """Returns moving averages under batch renormalization, updated with one more batch.

    The moving variance is computed from the moving standard deviation, as in Keras.

    Args:
        averages: Arrays of the same shape: mean, variance and standard deviation for inference;
            mean and standard deviation for `Renorm`.
        moments: `Moments` of the batch, as in `moving_averages`.
        momenta: Numbers in [0, 1], the weights of the old values: of the mean and of the standard
            deviation for inference, and of both averages for `Renorm`.
        epsilon: Number > 0 that is added to the batch's variance.

    Returns:
        A list of five arrays of the shapes and dtypes of `averages`.

    Example:
    >>> import keras
    >>> from keras_norm.ops import moments, renorm_averages
    >>> zero, one = keras.ops.zeros((1,)), keras.ops.ones((1,))
    >>> x = keras.ops.convert_to_tensor([[1.0], [7.0]])  # mean 4, deviation 3
    >>> averages = renorm_averages(
    ...     (zero, one, one, zero, one), moments(x, axes=[0]), (0.5, 0.5, 0.75), epsilon=1e-5
    ... )
    >>> [round(float(average[0]), 3) for average in averages]
    [2.0, 4.0, 2.0, 1.0, 1.5]
    """
    mean, variance, deviation, *of_renorm = averages
    of_inference, of_training = momenta[:2], [momenta[2]] * 2
    moments = moments._replace(variance=standard_deviation(moments.variance, epsilon))
    mean, new = moving_averages((mean, deviation), moments, of_inference)
    of_renorm = moving_averages(of_renorm, moments, of_training)
    # If an unusable batch left the deviation unchanged, rounding must not change the variance.
    variance = ops.where(new == deviation, variance, ops.maximum(ops.square(new) - epsilon, 0))
    return [mean, variance, new, *of_renorm]
