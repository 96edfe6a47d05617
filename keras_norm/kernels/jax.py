"""The executor for JAX.

Two functions have hand-written derivatives: the moments of sets, and the function that scales and
shifts channels. JAX differentiates the code between them. Where gamma and beta span all axes of a
set, one function does both. The derivatives are in forward mode. JAX transposes them; the
transposes read the incoming gradient once for two sums and once more for the result.

On the CPU, XLA fuses an array into a sum only if nothing else reads the array, even if it is only
broadcast; it writes an array with two readers to memory first. So the moments are sums of the input
and of its squares, unless a mean is far from zero. And a sum for the gradient reads separate
arrays: the negatives or halves of those that other sums read. A branch receives its arrays from
memory: a 16-bit input is passed as it is, not converted to float32 first.

On an accelerator the program has no branch (`jax.lax.platform_dependent`) and always shifts the
data; benchmarks/xla.py counts its passes over memory.
"""

import functools

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier, platform_dependent

from keras_norm import ops
from keras_norm.kernels.plan import AFTER, BEFORE, plan
from keras_norm.kernels.sets import Sets
from keras_norm.kernels.view import OPTIONS, View, short
from keras_norm.ops import registry
from keras_norm.ops.convert import at_least_float32

# Elements that a single sum may run over with an error below 1e-6; longer axes are viewed as
# several. benchmarks/accuracy.py measures the error on rows of long axes.
LONGEST_SUM = 16384


# One view for each plan: the cache of compiled functions is keyed by the view.
@functools.lru_cache(maxsize=4096)
def _view(plan):
    """Returns the `View` of a plan.

    With channels last, sums run over the last axis of positions first. This order saves XLA's
    programs for accelerators a read of the input (`nox -s xla`). With channels first, this order
    adds a read, and programs for the CPU take up to twice as long.
    """
    sizes = [[short(size, LONGEST_SUM) for size in plan.sizes_of(part)] for part in (BEFORE, AFTER)]
    first = None if sizes[1] else -1
    return View(plan, sizes, LONGEST_SUM, most=LONGEST_SUM, first=first)


def normalize(problem, x, gamma, beta, weights, combine, renorm=None):
    """Solves a problem of `keras_norm.ops.normalize`."""
    # Sizes are unknown while a model is exported with dynamic axes.
    found = plan(problem) if all(problem.shape) else None
    if found is None:
        return None
    view = _view(found)
    if not view.suits(problem):
        return None
    dtype = at_least_float32(x.dtype)
    arguments = (
        view.of(x),
        view.parameter(gamma, 1, dtype),
        view.parameter(beta, 0, dtype),
        None if weights is None else view.weights(weights, x),
    )
    y, moments = _compiled(view, problem.epsilon, problem.centered, combine, *arguments, renorm)
    moments = ops.Moments(*map(jax.lax.stop_gradient, moments)) if problem.moments else None
    return view.back(y, x), moments


# Compiled once for each problem in eager code too, where JAX would compile the branch at each call.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), inline=True)
def _compiled(view, epsilon, centered, combine, x, gamma, beta, weights, renorm):
    """Returns the output in the view, and the moments."""
    sets = SetsOnJax(view, x, weights, gamma.dtype)
    if not view.is_by_channel:
        y, *found = _rows(view, epsilon, centered, x, gamma, beta, weights)
        return y, sets.moments(x, *found)
    *found, finite = _moments(view, centered, x, weights, gamma.dtype)
    *steps, moments = sets.affine(x, found, gamma, beta, epsilon, combine, renorm)
    return _scaled(view, x, weights, finite, *steps), moments


# Only the arguments are kept for a backward pass, not the intermediate values.
_recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


class SetsOnJax(Sets):
    """Sets with JAX's control flow."""

    recomputed = staticmethod(_recomputed)

    def branch(self, condition, near, far):
        """Returns `near()` where the condition is true, else `far()`; on an accelerator `far()`."""
        return platform_dependent(cpu=lambda: jax.lax.cond(condition, near, far), default=far)

    def constant(self, shift):
        """Returns the shift; all uses see one rounded number, however a compiler arranges them."""
        return optimization_barrier(super().constant(shift))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 4))
def _moments(view, centered, x, weights, dtype):
    """Returns shift, residual and variance of the sets, and 1 if all of the input is finite."""
    return SetsOnJax(view, x, weights, dtype).found(x, centered)


@_moments.defjvp
def _moments_jvp(view, centered, dtype, primals, tangents):
    """The derivative along dx.

    With w the share of an element in its set, mean = sum(w x), and variance =
    sum(w (x - mean)^2), or sum(w x^2) without centring, where mean is 0:

        dmean = sum(w dx)                       =: first, 0 without centring
        dvariance = 2 sum(w (x - mean) dx)      =: 2 product

    The mean is shift + residual, and shift is a constant.
    """
    shift, residual, variance, finite = _moments(view, centered, *primals, dtype)

    @_recomputed
    def tangent(x, weights, shift, residual, dx):
        sets = SetsOnJax(view, x, weights, dtype)
        first, product = _sums(sets, centered, x, shift, residual, dx)
        return first, 2 * product

    first, dvariance = tangent(*primals, shift, residual, tangents[0])
    tangents = jnp.zeros_like(shift), first, dvariance, jnp.zeros_like(finite)
    return (shift, residual, variance, finite), tangents


def _sums(sets, centered, x, shift, residual, dx):
    """Returns first and product as above."""
    x, dx = sets.masked(x.astype(shift.dtype)), sets.masked(dx.astype(shift.dtype))
    if not centered:
        return jnp.zeros_like(residual), sets.mean(x * dx)
    first = sets.mean(dx)
    return first, sets.mean((x - shift) * dx) - residual * first


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _scaled(view, x, weights, finite, shift, scale, offset):
    """Returns `(x - shift) * scale + offset`; `finite` is above 0 if all of `x` is finite."""
    wide = x.astype(scale.dtype)
    if weights is not None:
        wide = SetsOnJax(view, x, weights, scale.dtype).cleaned(wide)
    return ((wide - shift) * scale + offset).astype(x.dtype)


@_scaled.defjvp
def _scaled_jvp(view, primals, tangents):
    """The derivative: dy = scale (dx - dshift) + (x - shift) dscale + doffset."""
    dtype = primals[0].dtype

    @_recomputed
    def tangent(x, weights, finite, shift, scale, dx, dshift, dscale, doffset):
        dx = dx.astype(scale.dtype)
        if weights is None:
            along_scale = (x.astype(scale.dtype) + -shift) * dscale
        else:
            sets = SetsOnJax(view, x, weights, scale.dtype)
            along_scale = _along_scale(sets, x, finite, shift, dscale)
            dx = sets.cleaned(dx, like=x.astype(scale.dtype))
        dy = scale * dx + (along_scale + (doffset - scale * dshift))
        return dy.astype(dtype)

    dx, _, _, *steps = tangents
    return _scaled(view, *primals), tangent(*primals[:5], dx, *steps)


def _along_scale(sets, x, finite, shift, dscale):
    """Returns `(x - shift) dscale`. In the transpose, a sum then reads x, without a selection.

    XLA writes the result of a selection to memory before a sum.
    """

    @_recomputed
    def as_given(x, shift, dscale):
        return (x.astype(sets.dtype) + -shift) * dscale

    @_recomputed
    def cleaned(x, shift, dscale):
        return (sets.cleaned(x.astype(sets.dtype)) + -shift) * dscale

    # Replicas may take different sides of the branch, so JAX must sum the gradient to dscale over
    # replicas outside of it. The factor is 1, but JAX assumes that it differs between replicas.
    arguments = x, shift, dscale * (1 + 0 * finite)
    return sets.branch(finite > 0, lambda: as_given(*arguments), lambda: cleaned(*arguments))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _rows(view, epsilon, centered, x, gamma, beta, weights):
    """Returns output, shift, residual and variance where gamma and beta span the sets."""
    sets = SetsOnJax(view, x, weights, gamma.dtype)
    shift, residual, variance, _ = _moments(view, centered, x, weights, gamma.dtype)
    inverse = sets.selected(jax.lax.rsqrt(variance + epsilon))
    cleaned = sets.cleaned(x.astype(gamma.dtype))
    y = (cleaned - shift) * inverse - residual * inverse if centered else cleaned * inverse
    return (y * gamma + beta).astype(x.dtype), shift, residual, variance


@_rows.defjvp
def _rows_jvp(view, epsilon, centered, primals, tangents):
    """The derivative along (dx, dgamma, dbeta).

    With first and product as above, and r = (variance + epsilon)^(-1/2):

        y = gamma r (x - mean) + beta
        dr = -1/2 r^3 dvariance = -r^3 product
        dy = gamma r (dx - first) + gamma dr (x - mean) + r (x - mean) dgamma + dbeta
           = gamma r (dx - first) - gamma slope (x - mean) + r (x - mean) dgamma + dbeta,
             slope := r^3 product

    Without centring, first and mean are 0, and x has one factor, which is a matrix product:

        dy = gamma r dx + x (-slope gamma + r dgamma) + dbeta
    """
    x, gamma, _, weights = primals
    y, shift, residual, variance = _rows(view, epsilon, centered, *primals)

    @_recomputed
    def tangent(x, gamma, weights, shift, residual, variance, dx, dgamma, dbeta):
        sets = SetsOnJax(view, x, weights, gamma.dtype)
        first, product = _sums(sets, centered, x, shift, residual, dx)
        x, dx = x.astype(gamma.dtype), dx.astype(gamma.dtype)
        x, dx = sets.cleaned(x), sets.cleaned(dx, like=x)
        inverse = sets.selected(jax.lax.rsqrt(variance + epsilon))
        # In the transpose, sums read the factors of dgamma, slope and offset. The inverse is
        # multiplied three times: its third power may overflow.
        slope = product * inverse * inverse * inverse
        if not centered:
            dy = x * (_times(-slope, gamma) + _times(inverse, dgamma)) + dbeta
        else:
            offset = residual * slope - first * inverse
            dy = ((x + -shift) * -gamma) * slope + (0.5 * gamma) * (2 * offset)
            standard = (0.5 * x - 0.5 * shift) * (2 * inverse) + residual * -inverse
            dy += standard * dgamma + dbeta
        return (gamma * inverse * dx + dy).astype(y.dtype), first, 2 * product

    *steps, _ = tangents
    dy, dresidual, dvariance = tangent(x, gamma, weights, shift, residual, variance, *steps)
    return (y, shift, residual, variance), (dy, jnp.zeros_like(shift), dresidual, dvariance)


def _times(rows, columns):
    """Returns the product of a factor for each set and one for each channel.

    The transposes of a matrix product are matrix products: they read one array for both sums. With
    more rows, they would add up too many numbers in a single sum.
    """
    if rows.shape[-1] == 1 and columns.size == columns.shape[-1] and rows.size <= LONGEST_SUM:
        outer = jnp.matmul(
            rows.reshape(-1, 1), columns.reshape(1, -1), precision=jax.lax.Precision.HIGHEST
        )
        return outer.reshape(*rows.shape[:-1], -1)
    return rows * columns


def standardize(problem, x, moments, gamma, beta):
    """Solves a problem of `keras_norm.ops.standardize` with stored statistics for each channel."""
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
    return _scaled(None, x, None, None, shift, scale, offset)


registry.register("normalize", "jax", normalize, options=OPTIONS)
registry.register("standardize", "jax", standardize, options=["exported"])
