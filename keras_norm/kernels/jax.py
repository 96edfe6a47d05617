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
import math

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier, platform_dependent

from keras_norm import ops
from keras_norm.kernels.plan import AFTER, BEFORE, GROUPS, SAMPLES, plan, stages
from keras_norm.ops import registry
from keras_norm.ops.convert import at_least_float32

# Means of up to so many deviations are exact without a shift: their squares cost one bit.
# benchmarks/accuracy.py measures it.
LARGEST_MEAN = 1.0
# Elements along an axis that a sum runs over in one go with an error below 1e-6; longer axes are
# viewed as several (benchmarks/accuracy.py, rows of long axes).
LONGEST_AXIS = 16384
LONGEST_STAGE = 512


class View:
    """How the executor sees the arrays of a plan: few axes, and which of them sums run over.

    With positions, the axes are (samples, positions before, channels, positions after); sums run
    over the positions, and over the channels of a group afterwards. Without positions, they are
    (samples, groups, members), and sums run over the members. Axes of size 1 are left out, and
    those of positions stay as they are: XLA may take ten times as long for sums in another view.

    Attributes:
        shape: Sizes of the input in the view.
        is_by_channel: Whether there are positions.
        rows, others: The axes that sums run over first, and then.
    """

    def __init__(self, plan, before, after):
        self.plan = plan
        samples, _, groups, group_size, _ = plan.form
        self.is_by_channel = bool(before or after)
        channels = (groups * group_size,) if self.is_by_channel else (groups, group_size)
        axes = [(SAMPLES, samples)] if samples != 1 else []
        axes += [(BEFORE, size) for size in before]
        axes += [(GROUPS, size) for size in channels if size != 1 or size is channels[-1]]
        axes += [(AFTER, size) for size in after]
        self.parts, self.shape = (tuple(v) for v in zip(*axes, strict=True))
        positions = [a for a, part in enumerate(self.parts) if part in (BEFORE, AFTER)]
        positions = positions or [len(axes) - 1]
        self.rows, self.others = tuple(positions[-1:]), tuple(positions[:-1])

    def of(self, x):
        """Returns the input in the view."""
        return self._ordered(x).reshape(self.shape)

    def back(self, y):
        """Returns an array in the view in the shape of the input."""
        return self._as_given(y.reshape(self.plan.sizes))

    def parameter(self, values, default, dtype):
        """Returns gamma or beta in the view; None stands for a default."""
        if values is None:
            return jnp.full((1,) * len(self.shape), default, dtype)
        return values.reshape(self._sizes(GROUPS))

    def weights(self, weights, dtype):
        """Returns a mask in the view, 1 where it is broadcast."""
        expanded, form = self.plan.mask
        weights = jnp.broadcast_to(self._ordered(weights), expanded).astype(dtype)
        covered = [part for part in (SAMPLES, BEFORE, AFTER) if form[part] != 1]
        return weights.reshape(self._sizes(*covered))

    def moment(self, values):
        """Returns moments by sample and channel as moments of sets, of the rank of the input."""
        if self.is_by_channel:
            _, _, groups, group_size, _ = self.plan.form
            values = values.reshape(-1, groups, group_size)[:, :, 0]
        return self._as_given(values.reshape(self.plan.moments))

    def of_moment(self, values):
        """Returns moments of sets that are channels in the view."""
        return self._ordered(values).reshape(self._sizes(SAMPLES, GROUPS))

    def count(self, values):
        """Returns counts by sample, of the rank of the input."""
        return self._as_given(values.reshape(self.plan.counts))

    def _sizes(self, *parts):
        """Returns the view's sizes along the axes of some parts, and 1 along the others."""
        pairs = zip(self.shape, self.parts, strict=True)
        return [size if part in parts else 1 for size, part in pairs]

    def _ordered(self, x):
        return x if self.plan.is_ordered else x.transpose(self.plan.order)

    def _as_given(self, x):
        return x if self.plan.is_ordered else x.transpose(self.plan.inverse)

    def mean(self, x, masked):
        """Returns the means of the sets, by sample and channel."""
        x = masked.counted(x)
        for stage in (self.rows, self.others):
            if stage:
                x = jnp.sum(x, stage, keepdims=True)
                if masked.total is None:
                    x = x / math.prod(self.shape[a] for a in stage)
        return self.across(x if masked.total is None else x / jnp.maximum(masked.total, 1))

    def across(self, values):
        """Returns means by channel as means over all channels of a group."""
        _, _, groups, group_size, _ = self.plan.form
        if not self.is_by_channel or group_size == 1:
            return values
        by_group = values.reshape(-1, groups, group_size)
        # Not `jnp.mean`, which computes in float32.
        means = jnp.sum(by_group, 2, keepdims=True) / group_size
        return jnp.broadcast_to(means, by_group.shape).reshape(values.shape)


# One view for a plan, as what is compiled is found by it.
@functools.lru_cache(maxsize=4096)
def _view(plan):
    """Returns the `View` of a plan; None where an axis is too long and has no divisors."""
    axes = []
    for part in (BEFORE, AFTER):
        split = [
            (size,) if size <= LONGEST_AXIS else stages(size, LONGEST_STAGE)
            for size in plan.sizes_of(part)
        ]
        if None in split:
            return None
        axes.append(tuple(size for sizes in split for size in sizes))
    return View(plan, *axes)


class Masked:
    """What a mask makes of the arrays of a view; without one, they stay as they are.

    Attributes:
        count: Elements of each set that count, by sample; None if all do.
        total: Elements of each channel of a set that count, by sample. None if all do, and where
            the elements of a set count or do not count together: a selection at the end will do.
    """

    def __init__(self, view, weights, dtype):
        self.count = self.total = self._counts = None
        if weights is None:
            return
        w = view.weights(weights, dtype)
        self._counts = w > 0
        if view.plan.mask.is_by_set:
            self.count = w * view.plan.form.count
        else:
            positions = (*view.rows, *view.others)
            repeats = math.prod(view.shape[a] for a in positions if w.shape[a] == 1)
            self.total = jnp.sum(w, positions, keepdims=True) * repeats
            self.count = self.total * view.plan.form.group_size

    def counted(self, x):
        """Returns `x` with 0 for padding, for sums."""
        return x if self._counts is None else jnp.where(self._counts, x, 0)

    def held(self, x, like=None):
        """Returns `x` with 0 for padding that is not finite (in `like`, if that is given)."""
        if self._counts is None:
            return x
        if self.total is None:
            return jnp.where(self._counts, x, 0)
        return jnp.where(self._counts | jnp.isfinite(x if like is None else like), x, 0)

    def selected(self, inverse):
        """Returns 1 / deviation, 0 for empty sets."""
        return inverse if self.count is None else jnp.where(self.count > 0, inverse, 0)


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
    y = ((x_held - shift) * inverse - residual * inverse) * gamma + beta
    return y.astype(x.dtype), shift, residual, variance


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
        first = view.mean(dx, masked) if centered else jnp.zeros_like(residual)
        # sum(w (x - mean) dx), as mean = shift + residual
        product = view.mean((x - shift) * dx, masked) - residual * first
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


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 4))
def _local_moments(view, centered, x, weights, dtype):
    """Returns shift, residual and variance, with derivatives: dmean and dvariance as above."""
    return _moments(view, centered, x, Masked(view, weights, dtype), dtype)


@_local_moments.defjvp
def _local_moments_jvp(view, centered, dtype, primals, tangents):
    x, weights = primals
    shift, residual, variance = _local_moments(view, centered, x, weights, dtype)
    masked = Masked(view, weights, jnp.dtype(dtype))
    x, dx = x.astype(dtype), tangents[0].astype(dtype)
    x, dx = masked.held(x), masked.held(dx, like=x)
    first = view.mean(dx, masked) if centered else jnp.zeros_like(residual)
    product = view.mean((x - shift) * dx, masked) - residual * first
    return (shift, residual, variance), (jnp.zeros_like(shift), first, 2 * product)


def _standardized(view, epsilon, x, gamma, beta, weights, moments):
    """Returns the output for moments of sets that are channels, with JAX's own derivatives."""
    masked = Masked(view, weights, gamma.dtype)
    _, shift, residual, variance = moments
    shift, residual, variance = map(view.of_moment, (shift, residual, variance))
    inverse = jnp.where(moments.count.reshape(()) > 0, jax.lax.rsqrt(variance + epsilon), 0)
    wide = masked.held(x.astype(gamma.dtype))
    y = ((wide - shift) * inverse - residual * inverse) * gamma + beta
    return y.astype(x.dtype)


def _moments(view, centered, x, masked, dtype):
    """Returns shift, residual and variance."""

    def mean_and_variance(shift):
        values = x.astype(dtype) if shift is None else x.astype(dtype) - shift
        square = view.mean(jnp.square(values), masked)
        if not centered:
            return jnp.zeros_like(square), square
        mean = view.mean(values, masked)
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
    is_near = jnp.all((is_near | _is_zero(mean, variance)) & jnp.isfinite(variance))
    return platform_dependent(cpu=lambda: jax.lax.cond(is_near, near, far), default=far)


def _is_zero(mean, variance):
    """Returns where a set is empty, or 0 throughout."""
    return (mean == 0) & (variance == 0)


registry.register(
    "normalize", "jax", normalize, options=["centered", "exported", "mask", "moments", "replicas"]
)
