"""The one operation behind the three layers."""

import keras
from keras import ops

from keras_norm.ops.accelerated import accelerated
from keras_norm.ops.convert import at_least_float32, convert
from keras_norm.ops.moments import Moments, moments
from keras_norm.ops.standardize import standardize


@accelerated
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
    """Returns `x` standardized with its own moments, scaled and shifted; and the moments.

    Args:
        x: Array of a floating dtype. What has 16 bits is computed in float32, and gamma, beta and
            the moments are that; kernels keep no more than the 16 bits for the gradient.
        axes: Axes that a set extends over, counted from the front.
        epsilon: Number > 0 that is added to the variance.
        gamma: None, for 1, or an array of the rank of `x` that broadcasts against it.
        beta: None, for 0, or an array of the rank of `x` that broadcasts against it.
        weights: None, or 0s and 1s that broadcast against `x`: 0 keeps an element out of the
            moments. NaN and infinity where the weight is 0 count as 0, so that padding never
            spoils a gradient.
        combine: None, or a function of the `Moments` of `x` that returns the `Moments` to
            standardize with instead: those of the global batch, for one.
        split_open: Whether sums over axes of unknown size go in stages, too. Training asks for it,
            on TensorFlow; what is exported does better without.
        with_moments: Whether to return the moments. They are constants: no gradient flows
            through them.

    Returns:
        The output, of the shape and dtype of `x`; and the `Moments` it was standardized with, or
        None.
    """
    given = keras.backend.standardize_dtype(x.dtype)
    x = convert(x, at_least_float32(given))
    if weights is not None:
        weights = ops.cast(weights, x.dtype)
        x = ops.where(ops.logical_or(weights > 0, ops.isfinite(x)), x, 0)
    found = moments(x, axes, weights, split_open)
    if combine is not None:
        found = combine(found)
    y = convert(standardize(x, found, epsilon, gamma, beta, split_open), given)
    return y, Moments(*map(ops.stop_gradient, found)) if with_moments else None
