"""Functions that standardize elements with given moments, and scale and shift them."""

import keras
from keras import ops

from keras_norm.ops import registry
from keras_norm.ops.blocks import Blocks
from keras_norm.ops.convert import at_least_float32, convert
from keras_norm.ops.problem import Problem


def standardize(x, moments, epsilon, gamma=None, beta=None, *, exported=False):
    """Returns `gamma * (x - mean) / sqrt(variance + epsilon) + beta`.

    Elements of an empty set standardize to 0, so that their output is `beta`.

    Args:
        x: Array of a floating dtype. 16-bit input is computed in float32, the dtype of moments,
            gamma and beta.
        moments: `Moments` that broadcast against `x`. A residual of None means that they are stored
            statistics, of sets that are not empty.
        epsilon: Number > 0 that is added to the variance.
        gamma: None, for 1, or an array of the rank of `x` that broadcasts against it.
        beta: None, for 0, or an array of the rank of `x` that broadcasts against it.
        exported: Whether the graph may be exported: it then has plain operations only.

    Returns:
        An array of the shape and dtype of `x`.

    Example:
    >>> import keras
    >>> from keras_norm.ops import moments, standardize
    >>> x = keras.ops.convert_to_tensor([[1.0, 3.0]])
    >>> y = standardize(x, moments(x, axes=[1]), epsilon=1e-5)
    >>> keras.ops.convert_to_numpy(y).round(3).tolist()
    [[-1.0, 1.0]]
    """
    axes = [axis for axis, size in enumerate(moments.shift.shape) if size == 1]
    problem = Problem.of(x, axes, epsilon, gamma, beta, exported=exported)
    tensors = x, moments, gamma, beta
    answer = registry.answer("standardize", problem, *tensors)
    return standardize_plain(problem, *tensors) if answer is None else answer


def standardize_plain(problem, x, moments, gamma=None, beta=None):
    """Returns the answer of `standardize` to a problem, in `keras.ops`."""
    given = keras.backend.standardize_dtype(x.dtype)
    x = convert(x, at_least_float32(given))
    return convert(_standardized(problem, x, moments, gamma, beta), given)


def _standardized(problem, x, moments, gamma, beta):
    if moments.residual is None:
        # Inference: a mean is one number, and the graph stays simple for exporters.
        inverse = ops.rsqrt(moments.variance + problem.epsilon)
        scale = inverse if gamma is None else ops.multiply(inverse, gamma)
        return _plus((x - moments.shift) * scale, beta)
    # Not `ops.rsqrt`: its derivative contains the third power of the result, which overflows in
    # float32 where variance + epsilon is below 1e-25. Gradients of a constant set would be NaN.
    inverse = 1 / ops.sqrt(moments.variance + problem.epsilon)
    inverse = ops.where(moments.count > 0, inverse, 0)
    # The residual is subtracted after the scaling. Compilers that reassociate sums would turn
    # (x - shift) - residual into x - (shift + residual), and the residual would be lost.
    offset = moments.residual * inverse
    # Gradients sum over broadcast axes; the blocks make these sums staged.
    operands = [moments.shift, inverse, offset, gamma, beta]
    blocks = Blocks(ops.shape(x), _broadcast_axes(x, operands), not problem.exported)
    x = blocks.split(x)
    shift, inverse, offset, gamma, beta = (spread(blocks.split(v), x) for v in operands)
    y = (x - shift) * inverse - offset
    if gamma is not None:
        y = ops.multiply(y, gamma)
    return blocks.join(_plus(y, beta))


def scale_and_shift(x, scale, offset):
    """Returns `scale * x + offset`; the gradients of both operands are sums in stages.

    Args:
        x: Array, float32 or float64.
        scale: Array of the rank of `x` that broadcasts against it.
        offset: Array of the rank of `x` that broadcasts against it.
    """
    blocks = Blocks(ops.shape(x), _broadcast_axes(x, [scale, offset]))
    x = blocks.split(x)
    scale, offset = (spread(blocks.split(v), x) for v in (scale, offset))
    return blocks.join(_plus(ops.multiply(x, scale), offset))


def _plus(y, beta):
    # Not `ops.add`: if beta has as many entries as the last axis, Keras on TensorFlow adds it as a
    # bias of the last axis, even if beta spans another axis.
    return y if beta is None else y + ops.convert_to_tensor(beta)


def _broadcast_axes(x, operands):
    """Returns the axes along which an operand is broadcast to `x`."""
    return [
        axis
        for axis, size in enumerate(x.shape)
        if size != 1 and any(v is not None and v.shape[axis] == 1 for v in operands)
    ]


def spread(v, x):
    """Returns `v` broadcast to `x`, one axis at a time, along all missing axes except the last.

    The gradient is then a sum in stages: the arithmetic that follows sums over the last axis, this
    function over the others. Halving and doubling is exact, and keeps XLA from fusing the sums into
    one long sum.
    """
    if v is None:
        return None
    shape = list(ops.shape(v))
    sizes = ops.shape(x)
    for axis in _broadcast_axes(x, [v])[:-1]:
        shape[axis] = sizes[axis]
        v = ops.broadcast_to(v * 0.5, shape) * 2
    return v
