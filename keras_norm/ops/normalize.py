"""The operation that all layers call."""

import keras
from keras import ops

from keras_norm.ops import registry
from keras_norm.ops.convert import at_least_float32, convert
from keras_norm.ops.moments import Moments, moments
from keras_norm.ops.problem import Problem
from keras_norm.ops.renorm import renorm_corrections
from keras_norm.ops.standardize import scale_and_shift, standardize_plain


def normalize(
    x,
    axes,
    epsilon,
    gamma=None,
    beta=None,
    weights=None,
    combine=None,
    renorm=None,
    *,
    centered=True,
    exported=False,
    with_moments=True,
):
    """Returns `x` standardized with its own moments, scaled and shifted; and the moments.

    Args:
        x: Array of a floating dtype. 16-bit input is computed in float32, and gamma, beta and the
            moments have that dtype; executors store only the 16-bit input for the gradient.
        axes: Axes that a set extends over, counted from the front.
        epsilon: Number > 0 that is added to the variance.
        gamma: None, for 1, or an array of the rank of `x` that broadcasts against it.
        beta: None, for 0, or an array of the rank of `x` that broadcasts against it.
        weights: None, or an array of the rank of `x` with 0s and 1s that broadcasts against it: 0
            excludes an element from the moments. NaN and infinity with weight 0 are replaced by 0,
            so that padding never makes a gradient NaN.
        combine: None, or a function of the `Moments` of `x` that returns the `Moments` to
            standardize with, for example those of the global batch.
        renorm: None, or the `Renorm` of batch renormalization: before gamma and beta, each
            standardized element is multiplied by r, and d is added (`renorm_corrections`).
        centered: Whether the mean is subtracted. If not, the `Moments` have mean 0 and as
            variance the mean square (root mean square normalization).
        exported: Whether the graph may be exported. Sums over axes of unknown size are then
            computed in one stage, as exporters support little arithmetic on sizes.
        with_moments: Whether to return the moments. They are constants: no gradient flows
            through them.

    Returns:
        The output, of the shape and dtype of `x`; and the `Moments` it was standardized with, or
        None.

    Example:
    >>> import keras
    >>> from keras_norm.ops import normalize
    >>> x = keras.ops.convert_to_tensor([[1.0, 7.0]])  # mean 4, variance 9, root mean square 5
    >>> y, found = normalize(x, axes=[1], epsilon=1e-5)
    >>> keras.ops.convert_to_numpy(y).round(3).tolist(), float(found.mean[0, 0])
    ([[-1.0, 1.0]], 4.0)
    >>> y, _ = normalize(x, axes=[1], epsilon=1e-5, centered=False)
    >>> print(keras.ops.convert_to_numpy(y).round(3))
    [[0.2 1.4]]
    """
    problem = Problem.of(
        x,
        axes,
        epsilon,
        gamma,
        beta,
        weights,
        centered=centered,
        replicas=combine is not None,
        renorm=renorm is not None,
        exported=exported,
        moments=with_moments,
    )
    tensors = x, gamma, beta, weights, combine
    if renorm is not None:
        answer = registry.answer("normalize", problem, *tensors, renorm)
        return _renormalized(problem, *tensors, renorm) if answer is None else answer
    answer = registry.answer("normalize", problem, *tensors)
    return normalize_plain(problem, *tensors) if answer is None else answer


def _renormalized(problem, x, gamma, beta, weights, combine, renorm):
    """Returns the answer in two steps: an executor without `renorm` may take the first."""
    given = keras.backend.standardize_dtype(x.dtype)
    y, found = normalize(
        convert(x, at_least_float32(given)),
        problem.axes,
        problem.epsilon,
        weights=weights,
        combine=combine,
        centered=problem.centered,
        exported=problem.exported,
    )
    scale, offset = renorm_corrections(found, renorm, problem.epsilon)
    if gamma is not None:
        scale, offset = scale * gamma, offset * gamma
    y = scale_and_shift(y, scale, offset if beta is None else offset + beta)
    return convert(y, given), found if problem.moments else None


def normalize_plain(problem, x, gamma=None, beta=None, weights=None, combine=None):
    """Returns the answer of `normalize` to a problem, in `keras.ops`."""
    given = keras.backend.standardize_dtype(x.dtype)
    x = convert(x, at_least_float32(given))
    if weights is not None:
        weights = ops.cast(weights, x.dtype)
        x = ops.where(ops.logical_or(weights > 0, ops.isfinite(x)), x, 0)
    found = moments(x, problem.axes, weights, centered=problem.centered, exported=problem.exported)
    if combine is not None:
        found = combine(found)
    y = standardize_plain(problem, x, found, gamma, beta)
    return convert(y, given), Moments(*map(ops.stop_gradient, found)) if problem.moments else None
