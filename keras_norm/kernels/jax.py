"""Kernels for JAX.

The derivative is written by hand, in forward mode and such that its transpose, which JAX derives,
reads the gradient for two sums and once more for the result. Moments take two passes and an eighth:
means of an eighth of the data are near enough to shift by (by 2.6 deviations at most).

Masks decline, and so do axes too long to add up in one go.
"""

import functools
import math

import jax
import jax.numpy as jnp

from keras_norm import ops

LONGEST = 16384


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
    if weights is not None or combine is not None:
        return None
    # Sizes are no integers while a model is exported for sizes that are open.
    if not all(isinstance(size, int) and 0 < size <= LONGEST for size in x.shape):
        return None
    one, zero = jnp.ones((1,) * x.ndim, x.dtype), jnp.zeros((1,) * x.ndim, x.dtype)
    gamma, beta = (one if gamma is None else gamma), (zero if beta is None else beta)
    spanned = [axis for axis in range(x.ndim) if gamma.shape[axis] > 1 or beta.shape[axis] > 1]
    # Sums run over what gamma and beta do not span first, so that one serves moments and gamma.
    inner = tuple(axis for axis in axes if axis not in spanned)
    outer = tuple(axis for axis in axes if axis in spanned)
    y, *moments = _normalize(inner, outer, epsilon, x, gamma, beta)
    count = math.prod(x.shape[axis] for axis in axes)
    if not with_moments:
        return y, None
    return y, ops.Moments(jnp.asarray(count, x.dtype), *map(jax.lax.stop_gradient, moments))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _normalize(inner, outer, epsilon, x, gamma, beta):
    """Returns output, shift, residual and variance."""
    mean = functools.partial(_mean, inner, outer)
    shift = mean(_eighth(x, (*inner, *outer)))
    # One rounded number for all uses, however a compiler arranges them.
    shift = jax.lax.optimization_barrier(shift)
    residual = mean(x - shift)
    variance = jnp.maximum(mean(jnp.square(x - shift)) - jnp.square(residual), 0)
    y = _standardized(x, shift, residual, _inverse(variance, epsilon)) * gamma + beta
    return y, shift, residual, variance


@_normalize.defjvp
def _normalize_jvp(inner, outer, epsilon, primals, tangents):
    x, gamma, beta = primals
    y, shift, residual, variance = _normalize(inner, outer, epsilon, x, gamma, beta)

    # Only its arguments are kept for a backward pass, not what it makes of them.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent(x, gamma, shift, residual, variance, dx, dgamma, dbeta):
        inverse = _inverse(variance, epsilon)
        standardized = _standardized(x, shift, residual, inverse)
        first = _mean(inner, outer, dx)
        second = _mean(inner, outer, dx * standardized)
        scale = gamma * inverse
        dy = scale * dx + (dbeta - scale * first) + standardized * (dgamma - scale * second)
        return dy, first, 2 * second / inverse

    dy, dresidual, dvariance = tangent(x, gamma, shift, residual, variance, *tangents)
    return (y, shift, residual, variance), (dy, jnp.zeros_like(shift), dresidual, dvariance)


def _standardized(x, shift, residual, inverse):
    return (x - shift) * inverse - residual * inverse


def _inverse(variance, epsilon):
    return jax.lax.rsqrt(variance + epsilon)


def _mean(inner, outer, x):
    """Returns the mean over `inner`, then over `outer`; their sizes become 1.

    The first axis goes after the others of `inner`: long sums are more exact in two stages.
    """
    for stage in (inner[1:], inner[:1], outer):
        x = jnp.mean(x, stage, keepdims=True) if stage else x
    return x


def _eighth(x, axes):
    """Returns an eighth of each set, or all if no axis is long enough."""
    # Rather not the first axis, which may be spread over devices.
    axis = max(axes, key=lambda axis: (x.shape[axis] >= 16, axis > 0, x.shape[axis]))
    size = x.shape[axis]
    return x if size < 16 else jax.lax.slice_in_dim(x, 0, -(-size // 8), axis=axis)
