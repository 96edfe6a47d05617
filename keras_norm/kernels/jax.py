"""The executor for JAX.

The derivative is written by hand, in forward mode and such that its transpose, which JAX derives,
reads the gradient for two sums and once more for the result.

On the CPU, XLA fuses into a sum only what nothing else reads, down to an array that it broadcasts;
what two read it writes to memory first. So the moments are sums of the input and of its squares,
unless a mean is far from zero; and what a sum for the gradient reads is made from numbers of its
own, the negatives or halves of what others read. A branch is handed arrays from memory: an input of
16 bits as it is, and not made float32 first.

On an accelerator a branch costs more than a pass: there the program has none
(`jax.lax.platform_dependent`), and always shifts the data.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier, platform_dependent

from keras_norm import ops
from keras_norm.kernels.plan import AFTER, BEFORE, plan, stages
from keras_norm.kernels.view import LARGEST_MEAN, LONGEST_STAGE, Masked, View
from keras_norm.ops import registry
from keras_norm.ops.convert import at_least_float32

# Elements along an axis that a sum runs over in one go with an error below 1e-6; longer axes are
# viewed as several. benchmarks/accuracy.py measures it on rows of long axes.
LONGEST_AXIS = 16384


# One view for a plan, as what is compiled is found by it.
@functools.lru_cache(maxsize=4096)
def _view(plan):
    """Returns the `View` of a plan; None where an axis is too long and has no divisors."""
    before, after = (
        [
            (size,) if size <= LONGEST_AXIS else stages(size, LONGEST_STAGE)
            for size in plan.sizes_of(part)
        ]
        for part in (BEFORE, AFTER)
    )
    if None in before + after:
        return None
    return View(plan, *(itertools.chain(*sizes) for sizes in (before, after)))


def _mean(view, x, masked):
    """Returns the means of the sets: over the last axis of positions first, then the others.

    Padding is to be 0 in `x`.
    """
    for stage in (view.positions[-1:], view.positions[:-1]):
        if stage:
            x = jnp.sum(x, stage, keepdims=True)
            if masked.total is None:
                x = x / math.prod(view.shape[a] for a in stage)
    return view.across(x if masked.total is None else x / masked.total)


def normalize(problem, x, gamma, beta, weights, combine):
    """Solves a problem of `keras_norm.ops.normalize`."""
    # Sizes are unknown while a model is exported for sizes that are open.
    if not all(problem.shape):
        return None
    found = plan(problem)
    view = None if found is None else _view(found)
    if view is None:
        return None
    if combine is not None and not (view.is_by_channel and found.form.group_size == 1):
        return None
    dtype = at_least_float32(x.dtype)
    arguments = (
        view.of(x),
        view.parameter(gamma, 1, dtype),
        view.parameter(beta, 0, dtype),
        None if weights is None else jnp.asarray(weights),
    )
    if combine is None:
        y, *moments = _compiled(view, problem.epsilon, problem.centered, *arguments)
        if not problem.moments:
            return view.back(y), None
        moments = [view.moment(jax.lax.stop_gradient(v)) for v in moments]
        return view.back(y), ops.Moments(_count(view, arguments[3], dtype), *moments)
    local = _local_moments(view, problem.centered, arguments[0], arguments[3], dtype)
    count = _count(view, arguments[3], dtype)
    combined = combine(ops.Moments(count, *map(view.moment, local)))
    y = _standardized(view, problem.epsilon, *arguments, combined)
    return view.back(y), ops.Moments(*map(jax.lax.stop_gradient, combined))


def _count(view, weights, dtype):
    if weights is None:
        return jnp.asarray(view.plan.form.count, dtype)
    return view.count(Masked(view, weights, dtype).count)


# Compiled once for a problem also where nothing else is: a branch is compiled wherever it is met.
@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _compiled(view, epsilon, centered, x, gamma, beta, weights):
    return _normalize(view, epsilon, centered, x, gamma, beta, weights)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _normalize(view, epsilon, centered, x, gamma, beta, weights):
    """Returns output, shift, residual and variance."""
    dtype = gamma.dtype
    masked = Masked(view, weights, dtype)
    shift, residual, variance = _moments(view, centered, x, masked, dtype)
    inverse = masked.selected(jax.lax.rsqrt(variance + epsilon))
    x_held = masked.held(x.astype(dtype))
    y = (x_held - shift) * inverse - residual * inverse if centered else x_held * inverse
    return (y * gamma + beta).astype(x.dtype), shift, residual, variance


@_normalize.defjvp
def _normalize_jvp(view, epsilon, centered, primals, tangents):
    """The derivative along (dx, dgamma, dbeta).

    With w the share of an element in its set, so that mean = sum(w x) and variance =
    sum(w (x - mean)^2), and r = (variance + epsilon)^(-1/2):

        dmean = sum(w dx)                          =: first
        dvariance = 2 sum(w (x - mean) dx)
        dr = -1/2 r^3 dvariance = -r^2 second,     second := r sum(w (x - mean) dx)
        y = gamma r (x - mean) + beta
        dy = gamma r (dx - first) - gamma r^2 (x - mean) second + r (x - mean) dgamma + dbeta

    The mean is shift + residual, and shift is a constant. Without centring, first and mean are 0.
    """
    x, gamma, _, weights = primals
    y, shift, residual, variance = _normalize(view, epsilon, centered, *primals)

    # Only its arguments are kept for a backward pass, not what it makes of them.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent(x, gamma, weights, shift, residual, variance, dx, dgamma, dbeta):
        masked = Masked(view, weights, gamma.dtype)
        x, dx = x.astype(gamma.dtype), dx.astype(gamma.dtype)
        x, dx = masked.held(x), masked.held(dx, like=x)
        inverse = masked.selected(jax.lax.rsqrt(variance + epsilon))
        scale = gamma * inverse
        if not centered:
            product = _mean(view, masked.counted(x * dx), masked)
            # Factor by factor: the third power of the inverse may overflow.
            third = -product * inverse * inverse * inverse
            slope = _times(third, gamma) + _times(inverse, dgamma)
            dy = scale * dx + x * slope + dbeta
            return dy.astype(y.dtype), jnp.zeros_like(residual), 2 * product
        first = _mean(view, masked.counted(dx), masked)
        # sum(w (x - mean) dx), as mean = shift + residual
        product = _mean(view, masked.counted((x - shift) * dx), masked) - residual * first
        second = product * inverse
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
        return (scale * dx + dy).astype(y.dtype), first, 2 * product

    *steps, _ = tangents
    dy, dresidual, dvariance = tangent(x, gamma, weights, shift, residual, variance, *steps)
    return (y, shift, residual, variance), (dy, jnp.zeros_like(shift), dresidual, dvariance)


def _times(rows, columns):
    """Returns the product of a factor for each set and one for each channel.

    As a matrix product, its transposes are matrix products too: they read one array for both sums.
    Those of more rows would add up too many numbers in one go.
    """
    is_outer = rows.ndim == columns.ndim == 2 and rows.shape[1] == columns.shape[0] == 1
    if is_outer and rows.shape[0] <= LONGEST_AXIS:
        return jnp.matmul(rows, columns, precision=jax.lax.Precision.HIGHEST)
    return rows * columns


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 4))
def _local_moments(view, centered, x, weights, dtype):
    """Returns shift, residual and variance, with derivatives: dmean and dvariance as above."""
    return _moments(view, centered, x, Masked(view, weights, dtype), dtype)


@_local_moments.defjvp
def _local_moments_jvp(view, centered, dtype, primals, tangents):
    shift, residual, variance = _local_moments(view, centered, *primals, dtype)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent(x, weights, shift, residual, dx):
        masked = Masked(view, weights, dtype)
        x, dx = x.astype(dtype), dx.astype(dtype)
        x, dx = masked.held(x), masked.held(dx, like=x)
        first = _mean(view, masked.counted(dx), masked) if centered else jnp.zeros_like(residual)
        product = _mean(view, masked.counted((x - shift) * dx), masked) - residual * first
        return first, 2 * product

    first, dvariance = tangent(*primals, shift, residual, tangents[0])
    return (shift, residual, variance), (jnp.zeros_like(shift), first, dvariance)


def _standardized(view, epsilon, x, gamma, beta, weights, moments):
    """Returns the output for moments of sets that are channels."""
    _, shift, residual, variance = moments
    shift, residual, variance = map(view.of_moment, (shift, residual, variance))
    count = moments.count.reshape(())
    # Not `rsqrt`: its derivative holds the third power of the result, which may overflow.
    inverse = jnp.where(count > 0, 1 / jnp.sqrt(variance + epsilon), 0)
    scale = gamma * inverse

    # Without it, what a mask makes of the input would be kept for a backward pass.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def output(x, weights, shift, scale, offset):
        return _scaled(Masked(view, weights, scale.dtype).held(x), shift, scale, offset)

    # The residual is subtracted after the scaling: (x - shift) - residual, reassociated, loses it.
    return output(x, weights, shift, scale, beta - residual * scale)


def standardize(problem, x, moments, gamma, beta):
    """Solves a problem of `keras_norm.ops.standardize`: stored statistics, one for each channel."""
    if moments.residual is not None or not all(problem.shape) or x.dtype != moments.shift.dtype:
        return None
    gamma, beta = (
        jnp.full(moments.shift.shape, default, x.dtype) if v is None else jnp.asarray(v)
        for v, default in ((gamma, 1), (beta, 0))
    )
    scale = jax.lax.rsqrt(moments.variance + problem.epsilon) * gamma
    return _compiled_scaled(x, moments.shift, scale, beta)


@functools.partial(jax.jit, inline=True)
def _compiled_scaled(x, shift, scale, offset):
    return _scaled(x, shift, scale, offset)


@jax.custom_jvp
def _scaled(x, shift, scale, offset):
    """Returns `(x - shift) * scale + offset`."""
    return ((x.astype(scale.dtype) - shift) * scale + offset).astype(x.dtype)


@_scaled.defjvp
def _scaled_jvp(primals, tangents):
    """The derivative: dy = scale (dx - dshift) + (x - shift) dscale + doffset."""
    dtype = primals[0].dtype

    # Only its arguments are kept for a backward pass, not the difference.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent(x, shift, scale, dx, dshift, dscale, doffset):
        x, dx = x.astype(scale.dtype), dx.astype(scale.dtype)
        dy = scale * dx + ((x + -shift) * dscale + (doffset - scale * dshift))
        return dy.astype(dtype)

    return _scaled(*primals), tangent(*primals[:3], *tangents)


def _moments(view, centered, x, masked, dtype):
    """Returns shift, residual and variance."""

    def mean_and_variance(shift):
        values = masked.counted(x.astype(dtype) if shift is None else x.astype(dtype) - shift)
        square = _mean(view, jnp.square(values), masked)
        if not centered:
            return jnp.zeros_like(square), square
        mean = _mean(view, values, masked)
        return mean, jnp.maximum(square - jnp.square(mean), 0)

    mean, variance = mean_and_variance(None)
    if not centered:
        return mean, mean, variance

    def near():
        return jnp.zeros_like(mean), mean, variance

    def far():
        # One rounded number for all uses, however a compiler arranges them.
        shift = optimization_barrier(mean)
        return shift, *mean_and_variance(shift)

    # Elsewhere a branch costs more than a pass.
    is_near = jnp.square(mean) <= LARGEST_MEAN**2 * variance
    is_near = jnp.all(is_near & jnp.isfinite(variance))
    return platform_dependent(cpu=lambda: jax.lax.cond(is_near, near, far), default=far)


registry.register(
    "normalize", "jax", normalize, options=["centered", "exported", "mask", "moments", "replicas"]
)
registry.register("standardize", "jax", standardize)
