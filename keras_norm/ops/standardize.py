"""Elements standardized with the moments of their sets, then scaled and shifted."""

from keras import ops

from keras_norm.ops.accelerated import accelerated
from keras_norm.ops.blocks import Blocks


@accelerated
def standardize(x, moments, epsilon, gamma=None, beta=None):
    """Returns `gamma * (x - mean) / sqrt(variance + epsilon) + beta`.

    Elements of an empty set standardize to 0, so that their output is `beta`.

    Args:
        x: Array, float32 or float64.
        moments: `Moments` that broadcast against `x`.
        epsilon: Number > 0 that is added to the variance.
        gamma: None, for 1, or an array of the rank of `x` that broadcasts against it.
        beta: None, for 0, or an array of the rank of `x` that broadcasts against it.

    Returns:
        An array of the shape and dtype of `x`.

    Example:

    >>> import numpy as np
    >>> from keras_norm import ops
    >>> x = np.array([[1.0, 3.0]], "float32")
    >>> y = ops.standardize(x, ops.moments(x, axes=[1]), epsilon=1e-12)
    >>> np.asarray(y).tolist()
    [[-1.0, 1.0]]
    """
    inverse = ops.where(moments.count > 0, ops.rsqrt(moments.variance + epsilon), 0)
    # What is left of the mean is subtracted after the scaling: as (x - shift) - residual, compilers
    # that reassociate sums make it x - (shift + residual), and the second half of the mean is lost.
    offset = None if moments.residual is None else moments.residual * inverse
    operands = [moments.shift, inverse, offset, gamma, beta]
    shape = ops.shape(x)
    blocks = Blocks(shape, _broadcast_axes(x, operands))
    x = blocks.split(x)
    shift, inverse, offset, gamma, beta = (_spread(blocks.split(v), x) for v in operands)
    y = (x - shift) * inverse
    if offset is not None:
        y = y - offset
    if gamma is not None:
        y = y * gamma
    if beta is not None:
        y = y + beta
    return blocks.join(y)


def _broadcast_axes(x, operands):
    """Returns the axes along which an operand is broadcast to `x`."""
    return [
        axis
        for axis, size in enumerate(x.shape)
        if size != 1 and any(v is not None and v.shape[axis] == 1 for v in operands)
    ]


def _spread(v, x):
    """Returns `v` broadcast to `x` along all but the last axis that it lacks, one at a time.

    The gradient is then a sum in stages: the arithmetic that follows sums over the last axis, and
    this over the others. Doubling and halving is exact, and what keeps XLA from fusing the sums
    into one long sum.
    """
    if v is None:
        return None
    shape = list(ops.shape(v))
    sizes = ops.shape(x)
    for axis in _broadcast_axes(x, [v])[:-1]:
        shape[axis] = sizes[axis]
        v = ops.broadcast_to(v * 0.5, shape) * 2
    return v
