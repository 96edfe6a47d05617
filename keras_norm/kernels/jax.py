"""Kernels for JAX.

The derivative is written by hand, in forward mode and such that its transpose, which JAX derives,
reads the gradient for two sums and once more for the result.

On the CPU, XLA fuses into a sum only what nothing else reads, down to an array that it broadcasts;
what two read it writes to memory first. So the moments are sums of the input and of its squares,
unless a mean is far from zero; and what a sum for the gradient reads is made from numbers of its
own, the negatives or halves of what others read. A branch is handed arrays from memory: an input of
16 bits as it is, and not made float32 first.

Masks decline, and so do axes too long to add up in one go.
"""

import functools
import math

import jax
import jax.numpy as jnp

from keras_norm import ops
from keras_norm.kernels.view import LARGEST_MEAN, View, spanned_axes
from keras_norm.ops import registry
from keras_norm.ops.convert import at_least_float32

LONGEST = 16384


def normalize(problem, x, gamma, beta, weights, combine):
    """Solves a problem of `keras_norm.ops.normalize`."""
    axes, epsilon = problem.axes, problem.epsilon
    # Sizes are no integers while a model is exported for sizes that are open.
    if not all(isinstance(size, int) and 0 < size <= LONGEST for size in x.shape):
        return None
    spanned = spanned_axes(gamma, beta)
    if spanned is None:
        return None
    view = _view(x.shape, tuple(axes), spanned)
    dtype = at_least_float32(x.dtype)
    gamma, beta = (
        jnp.full((1,) * view.rank, default, dtype) if parameter is None else view.of(parameter)
        for parameter, default in ((gamma, 1), (beta, 0))
    )
    y, *moments = _compiled(view, epsilon, view.of(x), gamma, beta)
    y = y.reshape(x.shape)
    if not problem.moments:
        return y, None
    count = jnp.asarray(math.prod(x.shape[axis] for axis in axes), dtype)
    return y, ops.Moments(count, *(view.moment(jax.lax.stop_gradient(v)) for v in moments))


# One view for a problem, as what is compiled is found by it.
_view = functools.lru_cache(maxsize=1024)(View)


# Compiled once for a problem also where nothing else is: a branch is compiled wherever it is met.
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _compiled(view, epsilon, x, gamma, beta):
    return _normalize(view, epsilon, x, gamma, beta)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _normalize(view, epsilon, x, gamma, beta):
    """Returns output, shift, residual and variance."""
    shift, residual, variance = _moments(view, x, gamma.dtype)
    inverse = _inverse(variance, epsilon)
    y = ((x.astype(gamma.dtype) - shift) * inverse - residual * inverse) * gamma + beta
    return y.astype(x.dtype), shift, residual, variance


@_normalize.defjvp
def _normalize_jvp(view, epsilon, primals, tangents):
    x, gamma, beta = primals
    y, shift, residual, variance = _normalize(view, epsilon, x, gamma, beta)

    # Only its arguments are kept for a backward pass, not what it makes of them.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent(x, gamma, shift, residual, variance, dx, dgamma, dbeta):
        x, dx = x.astype(gamma.dtype), dx.astype(gamma.dtype)
        inverse = _inverse(variance, epsilon)
        scale = gamma * inverse
        first = _mean(view, dx)
        second = _mean(view, (x - shift) * dx) * inverse - residual * inverse * first
        # Transposed, what is multiplied by dgamma, slope or offset here becomes what sums read.
        if view.is_by_channel:
            slope = (dgamma - scale * second) * inverse
            dy = (x + -shift) * slope + (dbeta - scale * first - residual * slope)
        else:
            slope = second * inverse * inverse
            offset = residual * slope - first * inverse
            dy = ((x + -shift) * -gamma) * slope + (0.5 * gamma) * (2 * offset)
            dy += ((0.5 * x - 0.5 * shift) * (2 * inverse)) * dgamma
            dy += (residual * -inverse) * dgamma + dbeta
        return (scale * dx + dy).astype(y.dtype), first, 2 * second / inverse

    dy, dresidual, dvariance = tangent(x, gamma, shift, residual, variance, *tangents)
    return (y, shift, residual, variance), (dy, jnp.zeros_like(shift), dresidual, dvariance)


def _moments(view, x, dtype):
    """Returns shift, residual and variance."""
    mean, variance = _mean_and_variance(view, x.astype(dtype))

    def near():
        return jnp.zeros_like(mean), mean, variance

    def far():
        # One rounded number for all uses, however a compiler arranges them.
        shift = jax.lax.optimization_barrier(mean)
        return shift, *_mean_and_variance(view, x.astype(dtype) - shift)

    # Elsewhere a branch costs more than a pass.
    is_near = jnp.square(mean) <= LARGEST_MEAN**2 * variance
    is_near = jnp.all(is_near & jnp.isfinite(variance))
    return jax.lax.platform_dependent(cpu=lambda: jax.lax.cond(is_near, near, far), default=far)


def _mean_and_variance(view, x):
    mean = _mean(view, x)
    variance = _mean(view, jnp.square(x)) - jnp.square(mean)
    return mean, jnp.maximum(variance, 0)


def _inverse(variance, epsilon):
    return jax.lax.rsqrt(variance + epsilon)


def _mean(view, x):
    """Returns the means of the sets: over the last axis to sum over, then over the others."""
    axes = (*view.batch, *view.positions)
    for stage in (axes[-1:], axes[:-1]):
        x = jnp.mean(x, stage, keepdims=True) if stage else x
    return view.across(x)


registry.register("normalize", "jax", normalize, options=["exported", "moments"])
