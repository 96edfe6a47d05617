"""The executor for TensorFlow, with and without XLA.

Two functions have hand-written gradients: the moments of sets, and the function that scales and
shifts channels. TensorFlow differentiates the code between them. Where gamma and beta span all axes
of a set, one function does both.

The moments are sums of the input and of its squares, unless a mean is far from zero: without XLA,
each further operation reads and writes memory. There, branches pass arrays on at no cost and skip
unneeded operations.
"""

import functools

import tensorflow as tf
from tensorflow.python.eager.forwardprop_util import pack_tangents
from tensorflow.python.eager.record import could_possibly_record
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from keras_norm import ops
from keras_norm.kernels.plan import AFTER, BEFORE, plan
from keras_norm.kernels.sets import LARGEST_UNSHIFTED_MEAN, Sets
from keras_norm.kernels.view import OPTIONS, View, short
from keras_norm.ops import registry
from keras_norm.ops.convert import at_least_float32

# XLA sums up to this many elements in the loop that computes them; more in windows, from memory.
WINDOW = 32
# Elements that a single sum may run over with an error below 1e-6: along one axis (longer axes are
# viewed as several; benchmarks/accuracy.py, rows of long axes), and along several axes.
LONGEST_SUM = 4096
MOST_POSITIONS = 2048
# The same for positions without XLA, where few channels are added sequentially: the error stays
# below 3e-6 if all squares of a set are equal, so that all sums are rounded in one direction.
LONGEST_SEQUENCE = 512
MOST_IN_SEQUENCE = 256


@functools.lru_cache(maxsize=4096)
def _view(plan, in_xla):
    """Returns the `View` of a plan: sums run over a part of a long axis first.

    For XLA, short axes before the channels are joined, and those after the channels are summed one
    by one. Otherwise programs take up to five times as long (`python -m benchmarks`, rows "deep").
    """
    before, after = plan.sizes_of(BEFORE), plan.sizes_of(AFTER)
    joined = _joined(before) if in_xla else before
    is_vectorized = in_xla or not before + after
    longest = LONGEST_SUM if is_vectorized else LONGEST_SEQUENCE
    sizes = [short(size, longest) for size in joined + after]
    first, most = None, MOST_POSITIONS if is_vectorized else MOST_IN_SEQUENCE
    if joined == before:
        index, part = _part(before + after, is_last=bool(after))
        if part > 1:
            sizes[index] = (part, *short((before + after)[index] // part, longest))
            first = sum(map(len, sizes[:index]))
        elif in_xla and after:
            most = 1
    middle = len(joined)
    return View(plan, (sizes[:middle], sizes[middle:]), longest, most, first)


def _joined(sizes):
    """Returns the sizes of axes after neighbours of few elements are joined, from the last on."""
    joined: list[int | None] = []
    for size in reversed(sizes):
        if joined and None not in (size, joined[0]) and size * joined[0] <= MOST_POSITIONS:
            joined[0] *= size
        else:
            joined.insert(0, size)
    return tuple(joined)


def _part(sizes, is_last):
    """Returns which axis to view as two, and the size of the first, which is summed separately.

    Args:
        sizes: Sizes of the axes to sum over; None for an unknown size.
        is_last: Whether the last of these is the last axis of the array.

    Returns:
        The index and the size; 1 for none.
    """
    known = [index for index, size in enumerate(sizes) if size is not None]
    if not known:
        return None, 1
    *others, index = known
    size = sizes[index]
    part = max(n for n in range(1, WINDOW + 1) if size % n == 0)
    # The remaining sum must be long enough for windows. Otherwise both sums are one loop, which is
    # slow where it does not read neighbours.
    remaining = max([size // part, *(sizes[other] for other in others)])
    return index, part if part < size and (remaining > WINDOW or is_last) else 1


def normalize(problem, x, gamma, beta, weights, combine, renorm=None):
    """Solves a problem of `keras_norm.ops.normalize`."""
    if not isinstance(x, tf.Tensor) or x.shape.rank is None or _has_tangent(x):
        return None
    found = plan(problem)
    if found is None or None in found.form[2:4] or 0 in problem.shape:
        return None
    kind = _kind(_may_be_exported(problem))
    view = _view(found, kind is SetsInXla)
    if not view.suits(problem):
        return None
    dtype = at_least_float32(x.dtype)
    gamma, beta = view.parameter(gamma, 1, dtype), view.parameter(beta, 0, dtype)
    weights = None if weights is None else view.weights(weights, x)
    given, x = x, view.of(x)
    sets = kind(view, x, weights, dtype)
    if view.is_by_channel:
        *found, finite = _moments(sets, problem.centered, x)
        epsilon = problem.epsilon
        *steps, moments = sets.affine(given, found, gamma, beta, epsilon, combine, renorm)
        y = _scaled(sets, x, finite, *steps)
    else:
        y, *found = _rows(sets, problem.epsilon, problem.centered, x, gamma, beta)
        moments = sets.moments(given, *found)
    moments = ops.Moments(*map(tf.stop_gradient, moments)) if problem.moments else None
    return view.back(y, given), moments


def _has_tangent(x):
    """Returns whether a `ForwardAccumulator` watches x. TensorFlow has no public function for it.

    In a graph the accumulator would ignore the gradients given here and differentiate the
    operations.
    """
    return bool(pack_tangents([x]).indices)


def _may_be_exported(problem):
    """Returns whether the current trace may be exported. Exported graphs record no gradients.

    A backbone that is called with `training=False` in a model that trains is not exported.
    """
    return problem.exported and not could_possibly_record()


class SetsInXla(Sets):
    """Sets in a program that XLA compiles."""

    def branch(self, condition, near, far):
        """Returns `near()` where the condition is true, else `far()`."""
        return tf.cond(condition, near, far)

    def guarded(self, x, finite, like=None):
        """Returns `x` with 0 at padding that is not finite (in `like`, if that is given)."""
        return self.cleaned(x, like)

    def difference(self, x, shift):
        """Returns `x - shift`."""
        return x - shift


class SetsInExports(SetsInXla):
    """Sets in a graph that may be exported."""

    def branch(self, condition, near, far):
        """Returns `far()`: exporters may not support branches."""
        return far()


class SetsInMemory(SetsInXla):
    """Sets where each operation reads and writes memory, and branches pass arrays on at no cost."""

    def near(self, x, centered):
        """Returns mean and variance of elements near zero, from one array with 0 at padding."""
        x = x if self.share is None else x * self.weights
        return self._variance(x, self.squares(x), centered)

    def squares(self, x):
        """Returns the means of the squares; a norm adds them up without writing them to memory."""
        stage = self.view.stages[0]
        if len(stage) == 1 and (x.shape[stage[0]] or LONGEST_SUM + 1) > self.view.longest:
            return super().squares(x)

        sums = tf.square(tf.math.reduce_euclidean_norm(x, stage, keepdims=True))
        # The view divides by the sizes of its argument, which are now 1 along this stage.
        return self.mean(sums / self.view.size(x, stage))

    def guarded(self, x, finite, like=None):
        """Returns `x` with 0 at padding that is not finite (in `like`, if that is given)."""
        if self.weights is None:
            return x
        return tf.cond(finite > 0, lambda: x, lambda: self.cleaned(x, like))

    def difference(self, x, shift):
        """Returns `x - shift`."""
        return _difference(x, shift)


def _difference(x, shift):
    """Returns `x - shift`; if the shift is 0 everywhere, `x` itself, which costs nothing."""
    return tf.cond(tf.reduce_any(shift != 0), lambda: x - shift, lambda: x)


def _kind(exported):
    """Returns the class of sets for the current trace."""
    # TensorFlow has no public function that says whether the current trace is for XLA.
    if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return SetsInXla
    return SetsInMemory if not exported or tf.executing_eagerly() else SetsInExports


def _moments(sets, centered, x):
    """Returns shift, residual and variance, and 1 if all of the input is finite.

    A channel has n valid elements, `group_means` takes means over the channels of a set, and
    mean = shift + residual. From the gradients to residual and variance follows the gradient

        to x: 1 / n (to residual + 2 (x - mean) to variance) = slope (x - shift) + offset,
        where slope = 2 / n to variance and offset = 1 / n to residual - slope residual
    """
    # Of a constant, so that a tape keeps none of the steps.
    constants = list(map(tf.stop_gradient, sets.found(tf.stop_gradient(x), centered)))
    shift, *_, finite = constants
    return shift, *_differentiable(sets, centered, x, constants), finite


def _differentiable(sets, centered, x, constants):
    """Returns residual and variance as functions of the input, from all four results as constants.

    The gradient contains the residual as such a function again, for the derivatives of higher
    order. No derivative reaches the branch that found the constants: it would be NaN where padding
    is, and XLA cannot differentiate a branch that keeps arrays of unknown size.
    """
    shift, residual, variance, finite = constants

    @tf.custom_gradient
    def function(kept):
        def gradient(to_residual, to_variance):
            share = 1 if sets.share is None else sets.share
            n, group_means = sets.view.size(kept, dtype=sets.dtype) * share, sets.view.group_means
            slope = group_means(to_variance) * (2.0 / n)
            x = sets.guarded(tf.cast(kept, sets.dtype), finite)
            dx = sets.difference(x, shift) * slope
            if centered:
                again, _ = _differentiable(sets, centered, kept, constants)
                dx += group_means(to_residual) / n - slope * again
            return tf.cast(sets.masked(dx), kept.dtype)

        return (tf.identity(residual), tf.identity(variance)), gradient

    return function(x)


def _scaled(sets, x, finite, shift, scale, offset):
    """Returns (x - shift) scale + offset, with a constant shift.

    The gradients: to x: g scale; to scale: sum(g (x - shift)); to offset: sum(g).
    """
    shift = tf.stop_gradient(shift)

    @tf.custom_gradient
    def function(kept, scale, offset):
        def difference():
            return sets.difference(sets.guarded(tf.cast(kept, sets.dtype), finite), shift)

        def gradient(g):
            g, n = tf.cast(g, sets.dtype), sets.view.size(g, dtype=sets.dtype)
            dx = sets.guarded(g * scale, finite, like=tf.cast(kept, sets.dtype))
            sums = sets.view.mean(g * difference()) * n, sets.view.mean(g) * n
            return tf.cast(dx, kept.dtype), *sums

        return tf.cast(difference() * scale + offset, kept.dtype), gradient

    return function(x, scale, offset)


def _rows(sets, epsilon, centered, x, gamma, beta):
    """Returns output, shift, residual and variance where gamma and beta span the sets.

    A set has n elements, r = (variance + epsilon)^(-1/2), h = r (x - mean) and u = gamma g.
    Without centring, the mean is 0 and the term sum(u) is left out:

        to beta: sum(g);  to gamma: sum(g h);  to x: r (u - sum(u) / n - h sum(u h) / n)
    """

    @tf.custom_gradient
    def function(kept, gamma, beta):
        shift, residual, variance, finite = _moments(sets, centered, kept)
        inverse = sets.selected(tf.math.rsqrt(variance + epsilon))

        def standardized():
            x = sets.guarded(tf.cast(kept, sets.dtype), finite)
            if not centered:
                return x * inverse
            return sets.difference(x, shift) * inverse - residual * inverse

        def gradient(g, *_):
            g, h, mean = tf.cast(g, sets.dtype), standardized(), sets.mean
            u = g * gamma
            dx = u - h * mean(u * h) - (mean(u) if centered else 0.0)
            over_samples = sets.view.over_samples
            return tf.cast(dx * inverse, kept.dtype), over_samples(g * h), over_samples(g)

        y = standardized() * gamma + beta
        return (tf.cast(y, kept.dtype), shift, residual, variance), gradient

    return function(x, gamma, beta)


def standardize(problem, x, moments, gamma, beta):
    """Solves `keras_norm.ops.standardize`: stored statistics in a graph without XLA."""
    mean, variance = moments.shift, moments.variance
    if (
        not isinstance(x, tf.Tensor)
        or tf.executing_eagerly()
        or _kind(exported=False) is not SetsInMemory
        or _has_tangent(x)
        or _may_be_exported(problem)
        or moments.residual is not None
        or not x.dtype == mean.dtype == tf.float32
    ):
        return None
    gamma = tf.ones_like(mean) if gamma is None else gamma
    beta = tf.zeros_like(mean) if beta is None else beta
    operands = gamma, beta, mean, variance
    if any(v.shape[-1] != x.shape[-1] or v.shape.num_elements() != v.shape[-1] for v in operands):
        return _standardized(x, *operands, epsilon=problem.epsilon)
    vectors = (tf.reshape(v, (-1,)) for v in operands)
    y = _standardized_channels_last(x, *vectors, epsilon=problem.epsilon)
    return tf.ensure_shape(y, x.shape)


def _standardized(x, gamma, beta, mean, variance, *, epsilon):
    """Returns the output. Near zero, it reads the input itself, not a difference in memory."""
    is_far = tf.reduce_any(tf.square(mean) > LARGEST_UNSHIFTED_MEAN**2 * (variance + epsilon))
    shift = tf.stop_gradient(tf.where(is_far, mean, 0.0))
    scale = tf.math.rsqrt(variance + epsilon) * gamma
    return _difference(x, shift) * scale + (beta - (mean - shift) * scale)


def _standardized_channels_last(x, *vectors, epsilon):
    """Returns the output of one operation that subtracts, multiplies and adds."""

    @tf.custom_gradient
    def function(*inputs):
        x, *vectors = inputs
        rows = tf.reshape(x, (-1, 1, 1, x.shape[-1]))
        names = "scale", "offset", "mean", "variance"
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=rows, **dict(zip(names, vectors, strict=True)), epsilon=epsilon, is_training=False
        )

        def gradient(g):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = _standardized(*inputs, epsilon=epsilon)
            # TensorFlow prunes the gradients that the graph does not use.
            return tape.gradient(y, inputs, g)

        return tf.reshape(y, tf.shape(x)), gradient

    return function(x, *vectors)


registry.register("standardize", "tensorflow", standardize, options=["exported"])
registry.register("normalize", "tensorflow", normalize, options=OPTIONS)
