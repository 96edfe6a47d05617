"""The executor for TensorFlow, with and without XLA.

Two functions have hand-written gradients: the moments of sets, and the function that scales and
shifts channels. TensorFlow differentiates the code between them. Where gamma and beta span all axes
of a set, one function does both.

The moments are sums of the input and of its squares, unless a mean is far from zero: without XLA,
each further operation reads and writes memory. There, branches pass arrays on at no cost and skip
unneeded operations.
"""

import enum
import functools

import tensorflow as tf
from tensorflow.python.eager.forwardprop_util import pack_tangents
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from keras_norm import ops
from keras_norm.kernels.plan import AFTER, BEFORE, SAMPLES, plan
from keras_norm.kernels.view import LARGEST_MEAN, OPTIONS, Sets, View, short
from keras_norm.ops import registry
from keras_norm.ops.convert import at_least_float32

# XLA sums up to this many elements in the loop that computes them; more in windows, from memory.
WINDOW = 32
# Elements that a single sum may run over with an error below 1e-6: along one axis (longer axes are
# viewed as several; benchmarks/accuracy.py, rows of long axes), and along several axes.
LONGEST_SUM = 4096
MOST_POSITIONS = 2048

# The target of a trace: XLA, which fuses operations; TensorFlow, which runs them one after another;
# or an exporter, which may support only plain operations and no branches.
Target = enum.Enum("Target", ["XLA", "TENSORFLOW", "EXPORT"])


@functools.lru_cache(maxsize=4096)
def _view(plan):
    """Returns the `View` of a plan: sums run over a part of an axis first."""
    before, after = plan.sizes_of(BEFORE), plan.sizes_of(AFTER)
    sizes = [short(size, LONGEST_SUM) for size in before + after]
    index, part = _part(before + after, is_last=bool(after))
    first = None
    if part > 1:
        sizes[index] = (part, *short((before + after)[index] // part, LONGEST_SUM))
        first = sum(map(len, sizes[:index]))
    middle = len(before)
    return View(plan, (sizes[:middle], sizes[middle:]), LONGEST_SUM, MOST_POSITIONS, first)


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
    view = _view(found)
    if not view.suits(problem):
        return None
    dtype = at_least_float32(x.dtype)
    gamma, beta = view.parameter(gamma, 1, dtype), view.parameter(beta, 0, dtype)
    weights = None if weights is None else view.weights(weights, x)
    task = Task(view, view.of(x), weights, problem, dtype)
    if view.is_by_channel:
        y, moments = task.by_channel(x, gamma, beta, combine, renorm)
    else:
        y, *moments = task.rows(gamma, beta)
        moments = ops.Moments(task.count(x), *(view.moment(v, x) for v in moments))
    moments = ops.Moments(*map(tf.stop_gradient, moments)) if problem.moments else None
    return view.back(y, x), moments


def _has_tangent(x):
    """Returns whether a `ForwardAccumulator` watches x. TensorFlow has no public function for it.

    In a graph the accumulator would ignore the gradients given here and differentiate the
    operations.
    """
    return bool(pack_tangents([x]).indices)


def _target(exported):
    # TensorFlow has no public function that says whether the current trace is for XLA.
    if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return Target.XLA
    return Target.TENSORFLOW if not exported or tf.executing_eagerly() else Target.EXPORT


class SetsInMemory(Sets):
    """Sets whose squares a norm adds up, without writing them to memory. With XLA it would not."""

    def mean_of_squares(self, x):
        """Returns the means of the squares; `x` must be 0 at padding."""
        stage = self.view.stages[0]
        if len(stage) == 1 and (x.shape[stage[0]] or LONGEST_SUM + 1) > LONGEST_SUM:
            return super().mean_of_squares(x)

        # The gradient of the norm itself is NaN where all elements are 0.
        @tf.custom_gradient
        def sum_of_squares(x):
            norm = tf.math.reduce_euclidean_norm(tf.stop_gradient(x), stage, keepdims=True)
            return tf.square(norm), lambda g: 2.0 * g * x

        # The view divides by the sizes of its argument, which are now 1 along this stage.
        return self.mean(sum_of_squares(x) / self.view.size(x, stage))


class Task:
    """One call: the input in a view, and the computations on its sets."""

    def __init__(self, view, x, weights, problem, dtype):
        self._view, self._x, self._dtype = view, x, dtype
        self._epsilon, self._centered = problem.epsilon, problem.centered
        self._target = _target(problem.exported)
        self._is_masked = weights is not None
        self._sets = Sets(view, x, weights, dtype)
        is_in_memory = self._target is Target.TENSORFLOW
        self._near = SetsInMemory(view, x, weights, dtype) if is_in_memory else self._sets

    def count(self, x):
        """Returns how many elements count in each set."""
        count = tf.cast(self._sets.count, self._dtype)
        return self._view.count(count, x) if self._is_masked else count

    def by_channel(self, x, gamma, beta, combine, renorm):
        """Returns output and moments where sums run over positions."""
        view = self._view
        *moments, finite = self._moments(self._x)
        count, (shift, residual, variance) = self._sets.count, moments
        moments = ops.Moments(self.count(x), *(view.moment(v, x) for v in moments))
        if combine is not None:
            moments = combine(moments)
            shift, residual, variance = map(view.of_moment, moments[1:])
            count = tf.reshape(moments.count, [])
        if renorm is not None:
            r, d = map(view.of_moment, ops.renorm_corrections(moments, renorm, self._epsilon))
            gamma, beta = gamma * r, beta + gamma * d
        if view.parts[0] == SAMPLES:
            gamma, beta = (_spread(v, variance, view.over_samples) for v in (gamma, beta))
        # Not `rsqrt`: its derivative holds the third power of the result, which may overflow.
        inverse = 1.0 / tf.sqrt(variance + self._epsilon)
        if self._is_masked or combine is not None:
            inverse = tf.where(count > 0, inverse, tf.zeros_like(inverse))
        scale = gamma * inverse
        y = self._scaled(self._x, tf.stop_gradient(shift), scale, beta - residual * scale, finite)
        return y, moments

    def _moments(self, x):
        """Returns shift, residual and variance, and 1 if all of the input is finite.

        A channel has n valid elements, `across` takes means over the channels of a set, and
        mean = shift + residual. From the gradients to residual and variance follows the gradient

            to x: 1 / n (to residual + 2 (x - mean) to variance) = slope (x - shift) + offset,
            where slope = 2 / n to variance and offset = 1 / n to residual - slope residual
        """

        @tf.custom_gradient
        def function(kept):
            shift, residual, variance, finite = self._found(tf.cast(kept, self._dtype))

            def gradient(_, to_residual, to_variance, __):
                n = self._view.size(kept, dtype=self._dtype) * (
                    1 if self._sets.share is None else self._sets.share
                )
                across = self._view.across
                slope = across(to_variance) * (2.0 / n)
                dx = self._difference(self._held(kept, finite), shift) * slope
                if self._centered:
                    dx += across(to_residual) / n - slope * residual
                return tf.cast(self._sets.counted(dx), kept.dtype)

            return (shift, residual, variance, finite), gradient

        return function(x)

    def _found(self, x):
        """Returns shift, residual, variance, and 1 if all of the input is finite."""
        sets, centered = self._sets, self._centered
        raw = self._near.near(x, centered)
        finite = tf.reduce_all(tf.math.is_finite(raw[1]))
        mean, variance = map(sets.selected, raw)

        def near():
            return tf.zeros_like(mean), mean, variance

        def far():
            if not centered:
                return mean, *sets.mean_and_variance(sets.counted(x), centered)
            # Without this selection compilers contract the multiplication in the mean with some of
            # its subtractions.
            shift = sets.mean(sets.counted(x)) if self._is_masked else mean
            shift = tf.where(tf.math.is_finite(shift), shift, tf.zeros_like(shift))
            shift = tf.stop_gradient(shift)
            # TensorFlow cannot vectorize the norm in a branch that no sample takes.
            return shift, *sets.mean_and_variance(sets.counted(x - shift), centered)

        if not centered and not self._is_masked:
            found = mean, mean, variance
        elif self._target is Target.EXPORT:
            found = far()
        else:
            is_near = tf.square(mean) <= LARGEST_MEAN**2 * variance
            found = tf.cond(tf.reduce_all(is_near & tf.math.is_finite(variance)), near, far)
        return *found, tf.cast(finite, self._dtype)

    def _scaled(self, x, shift, scale, offset, finite):
        """Returns (x - shift) scale + offset.

        The gradients: to x: g scale; to scale: sum(g (x - shift)); to offset: sum(g).
        """

        @tf.custom_gradient
        def function(kept, scale, offset):
            y = self._difference(self._held(kept, finite), shift) * scale + offset

            def gradient(g):
                g = tf.cast(g, self._dtype)
                difference = self._difference(self._held(kept, finite), shift)
                n = self._view.size(g)
                dx = self._held(kept, finite, g * scale)
                sums = self._view.mean(g * difference) * n, self._view.mean(g) * n
                return tf.cast(dx, kept.dtype), *sums

            return tf.cast(y, kept.dtype), gradient

        return function(x, scale, offset)

    def rows(self, gamma, beta):
        """Returns output, shift, residual and variance where gamma and beta span the sets.

        A set has n elements, r = (variance + epsilon)^(-1/2), h = r (x - mean) and u = gamma g.
        Without centring, the mean is 0 and the term sum(u) is left out:

            to beta: sum(g);  to gamma: sum(g h);  to x: r (u - sum(u) / n - h sum(u h) / n)
        """

        @tf.custom_gradient
        def function(kept, gamma, beta):
            shift, residual, variance, finite = self._found(tf.cast(kept, self._dtype))
            inverse = self._sets.selected(tf.math.rsqrt(variance + self._epsilon))

            def standardized():
                difference = self._difference(self._held(kept, finite), shift)
                return difference * inverse - residual * inverse

            def gradient(g, *_):
                g, h, mean = tf.cast(g, self._dtype), standardized(), self._sets.mean
                u = g * gamma
                dx = u - h * mean(u * h) - (mean(u) if self._centered else 0.0)
                over_samples = self._view.over_samples
                return tf.cast(dx * inverse, kept.dtype), over_samples(g * h), over_samples(g)

            y = standardized() * gamma + beta
            return (tf.cast(y, kept.dtype), shift, residual, variance), gradient

        return function(self._x, gamma, beta)

    def _held(self, kept, finite, values=None):
        """Returns the input, or other values, with 0 at padding that is not finite."""
        x = tf.cast(kept, self._dtype)
        values, like = (x, None) if values is None else (values, x)
        if not self._is_masked:
            return values
        if self._target is not Target.TENSORFLOW:
            return self._sets.held(values, like)
        return tf.cond(finite > 0, lambda: values, lambda: self._sets.held(values, like))

    def _difference(self, x, shift):
        # XLA fuses the subtraction, but would copy the arrays that a branch passes on.
        if self._target is not Target.TENSORFLOW:
            return x - shift
        return tf.cond(tf.reduce_any(shift != 0), lambda: x - shift, lambda: x)


def _spread(v, like, over_samples):
    """Returns numbers by channel, broadcast over samples; their gradients are sums in stages."""

    @tf.custom_gradient
    def function(v):
        return tf.broadcast_to(v, tf.shape(like)), over_samples

    return function(v)


def standardize(problem, x, moments, gamma, beta):
    """Solves a problem of `keras_norm.ops.standardize`: stored statistics in a graph without XLA.

    One operation subtracts, multiplies and adds. It takes channels that come last.
    """
    mean, variance = moments.shift, moments.variance
    channels = x.shape[-1]
    if (
        not isinstance(x, tf.Tensor)
        or tf.executing_eagerly()
        or _target(exported=False) is not Target.TENSORFLOW
        or _has_tangent(x)
        or moments.residual is not None
        or not x.dtype == mean.dtype == tf.float32
        or any(v is not None and v.shape[-1] != v.shape.num_elements() for v in (gamma, beta))
        or not mean.shape[-1] == mean.shape.num_elements() == channels
    ):
        return None

    @tf.custom_gradient
    def function(x, gamma, beta, mean, variance):
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(x, (-1, 1, 1, channels)),
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=problem.epsilon,
            is_training=False,
        )

        def gradient(g):
            inputs = x, gamma, beta, mean, variance
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                scale = tf.math.rsqrt(variance + problem.epsilon) * gamma
                y = (x - mean) * scale + beta
            # TensorFlow leaves out of a graph what nobody asks for.
            return tape.gradient(y, inputs, g)

        return tf.reshape(y, tf.shape(x)), gradient

    vectors = ((gamma, 1.0), (beta, 0.0), (mean, None), (variance, None))
    y = function(
        x,
        *(tf.fill((channels,), n) if v is None else tf.reshape(v, (channels,)) for v, n in vectors),
    )
    return tf.ensure_shape(y, x.shape)


registry.register("standardize", "tensorflow", standardize)
registry.register("normalize", "tensorflow", normalize, options=OPTIONS)
