"""The executor and its gradients.

With w 1 where an element counts and 0 for padding, n the number that counts in a set, mean =
sum(w x) / n, variance = sum(w (x - mean)^2) / n and r = (variance + epsilon)^(-1/2):

    y = gamma r (x - mean) + beta

The gradient of sum(g y), with u = gamma g and h = r (x - mean), over all elements of a set:

    to beta:  sum(g)
    to gamma: sum(g h)
    to x:     r u - w r / n (sum(u) + h sum(u h))

The mean is shift + residual, and shift is a constant. With channels that are members of a set the
sums over these are those by channel, weighted by gamma and added up (`View.across`). Without
centring, the mean is 0, and so is the term with sum(u).
"""

import enum

import tensorflow as tf
from tensorflow.python.eager.forwardprop_util import pack_tangents
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from keras_norm import ops
from keras_norm.kernels.plan import plan
from keras_norm.kernels.tensorflow.multiplied import Fused, Plain
from keras_norm.kernels.tensorflow.sums import StagedView, mean, mean_square, sum_like, sum_over
from keras_norm.kernels.view import LARGEST_MEAN, Masked
from keras_norm.ops import registry
from keras_norm.ops.convert import at_least_float32

# What a call is traced for: XLA, which fuses operations; TensorFlow, which runs one after the
# other; or perhaps an exporter, which knows the plain ones only, and no branches.
Target = enum.Enum("Target", ["XLA", "TENSORFLOW", "EXPORT"])


def normalize(problem, x, gamma, beta, weights, combine):
    """Solves a problem of `keras_norm.ops.normalize`."""
    if not isinstance(x, tf.Tensor) or x.shape.rank is None or _has_tangent(x):
        return None
    found = plan(problem)
    view = None if found is None else StagedView.of_plan(found)
    # A batch of unknown size is fine where its samples are summed first.
    if view is None or None in problem.shape[1:] or 0 in problem.shape:
        return None
    if problem.shape[0] is None and view.positions == (0,) and view.is_by_channel:
        return None
    if combine is not None and not (view.is_by_channel and found.form.group_size == 1):
        return None
    dtype = at_least_float32(x.dtype)
    gamma, beta = view.parameter(gamma, 1, dtype), view.parameter(beta, 0, dtype)
    sets = Sets(view, problem, weights, dtype, _target(problem.exported))
    count = sets.masked.count
    if count is None:
        elements = tf.gather(tf.shape(x), tf.constant(problem.axes, tf.int32))
        count = tf.cast(tf.reduce_prod(elements), dtype)
    else:
        count = view.count(count)
    if combine is not None:
        moments = sets.moments(view.of(x))
        combined = combine(ops.Moments(count, *map(view.moment, moments)))
        y = sets.standardize(view.of(x), combined, gamma, beta)
        return view.back(y), ops.Moments(*map(tf.stop_gradient, combined))
    y, *moments = sets.normalize(view.of(x), gamma, beta)
    if not problem.moments:
        return view.back(y), None
    return view.back(y), ops.Moments(count, *map(view.moment, moments))


def _has_tangent(x):
    """Returns whether a `ForwardAccumulator` watches x. TensorFlow has no public function for it.

    In a graph it would look past the gradients given here, at the operations that are behind them.
    """
    return bool(pack_tangents([x]).indices)


def _target(exported):
    # TensorFlow has no public function that says whether what is traced now is for XLA.
    if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return Target.XLA
    return Target.TENSORFLOW if not exported or tf.executing_eagerly() else Target.EXPORT


class Sets:
    """The sets of a problem in a view, and what is computed of them.

    Arrays that this class gets are in the view; gamma and beta are arrays there, also where the
    problem has none.
    """

    def __init__(self, view, problem, weights, dtype, target):
        self._view, self._epsilon, self._centered = view, problem.epsilon, problem.centered
        self._dtype, self._target = dtype, target
        self.masked = Masked(view, weights, dtype)

    def normalize(self, x, gamma, beta):
        """Returns output, shift, residual and variance."""

        @tf.custom_gradient
        def function(kept, gamma, beta):
            x = self._wide(kept)
            shift, residual, variance = self._moments(kept)
            inverse = self._inverse(variance)
            if self._view.is_by_channel:
                scale = gamma * inverse
                offset = beta - residual * scale
                y = self._by_channel(x, shift, scale).scaled(scale, offset)
            else:
                standardized = self._standardized(x, shift, residual, inverse)
                y = self._by_column(standardized, gamma).scaled(gamma, beta)

            def gradient(g, *_):
                """Returns the gradients of input, gamma and beta."""
                x, g = self._wide(kept), tf.cast(g, gamma.dtype)
                if self._view.is_by_channel:
                    dx, *parameters = self._gradients(g, x, shift, residual, inverse, gamma)
                else:
                    dx, *parameters = self._gradients_of_rows(g, x, shift, residual, inverse, gamma)
                return tf.cast(self.masked.held(dx, like=tf.cast(kept, dx.dtype)),
                               kept.dtype), *parameters  # fmt: skip

            return (tf.cast(y, kept.dtype), shift, residual, variance), gradient

        return function(x, gamma, beta)

    def moments(self, x):
        """Returns shift, residual and variance, with gradients, of sets that are channels.

        d residual = sum(w dx) / n and d variance = 2 sum(w (x - mean) dx) / n.
        """

        @tf.custom_gradient
        def function(kept):
            shift, residual, variance = self._moments(kept)

            def gradient(_, to_residual, to_variance):
                x = self._wide(kept)
                dx = to_residual + 2.0 * to_variance * (x - shift - residual)
                dx = self.masked.counted(dx / self._count(x))
                return tf.cast(dx, kept.dtype)

            return (shift, residual, variance), gradient

        return function(x)

    def standardize(self, x, moments, gamma, beta):
        """Returns the output for the moments of sets that are channels, with gradients.

        With r = (variance + epsilon)^(-1/2), s = sum(g) and p = sum(g (x - mean)) over a channel:
        to x: gamma r g; to gamma: r p; to r: gamma p; to residual: -gamma r s; to beta: s.
        """
        _, shift, residual, variance = moments
        shift, residual, variance = map(self._view.of_moment, (shift, residual, variance))
        shift = tf.stop_gradient(shift)
        inverse = tf.math.rsqrt(variance + self._epsilon)
        inverse = tf.where(tf.reshape(moments.count, []) > 0, inverse, tf.zeros_like(inverse))

        @tf.custom_gradient
        def function(kept, residual, inverse, gamma, beta):
            scale = gamma * inverse
            y = self._by_channel(self._wide(kept), shift, scale)
            y = y.scaled(scale, beta - residual * scale)

            def gradient(g):
                centered = self._by_channel(self._wide(kept), shift, scale)
                dx, products, sums = centered.weighted(tf.cast(g, scale.dtype), scale)
                products -= residual * sums
                dx = self.masked.held(dx, like=tf.cast(kept, dx.dtype))
                return (
                    tf.cast(dx, kept.dtype),
                    -scale * sums,
                    gamma * products,
                    sum_like(inverse * products, gamma),
                    sum_like(sums, beta),
                )

            return tf.cast(y, kept.dtype), gradient

        return function(x, residual, inverse, gamma, beta)

    def _moments(self, kept):
        """Returns shift, residual and variance."""
        x = tf.cast(kept, self._dtype)
        # The norm is no plain operation.
        is_norm = self._target is Target.TENSORFLOW
        first, variance = self._mean_and_variance(x, is_norm)
        if not self._centered:
            return first, first, variance

        def near():
            return tf.zeros_like(first), first, variance

        def far():
            # Without this selection compilers contract a multiplication in the mean with the
            # subtractions of it, and not in all places the same way.
            shift = tf.where(tf.math.is_finite(first), first, tf.zeros_like(first))
            shift = tf.stop_gradient(shift)
            # TensorFlow cannot vectorize the norm in a branch that no sample takes.
            return shift, *self._mean_and_variance(x - shift, is_norm=False)

        if self._target is Target.EXPORT:
            return far()
        is_near = tf.square(first) <= LARGEST_MEAN**2 * variance
        return tf.cond(tf.reduce_all(is_near & tf.math.is_finite(variance)), near, far)

    def _mean_and_variance(self, x, is_norm):
        x = self.masked.counted(x)
        total = self.masked.total
        square = mean_square(x, self._view, total) if is_norm else mean(
            tf.square(x), self._view, total)  # fmt: skip
        if not self._centered:
            return tf.zeros_like(square), square
        first = mean(x, self._view, total)
        return first, tf.nn.relu(square - tf.square(first))

    def _inverse(self, variance):
        return self.masked.selected(tf.math.rsqrt(variance + self._epsilon))

    def _wide(self, kept):
        return self.masked.held(tf.cast(kept, self._dtype))

    def _count(self, x):
        """Returns how many elements of a channel count."""
        total = self.masked.total
        return self._view.size(x) if total is None else total

    def _by_channel(self, x, shift, scale):
        return self._multiplied(x, shift, scale, lambda v: sum_over(v, self._view))

    def _by_column(self, standardized, gamma):
        return self._multiplied(standardized, None, gamma, lambda v: sum_like(v, gamma))

    def _multiplied(self, x, shift, scale, total):
        """Returns x - shift, or x without one, to be multiplied by a scale and added up for it."""
        if self._target is Target.TENSORFLOW and Fused.suits(x, scale):
            return Fused(x, tf.zeros_like(scale) if shift is None else shift, total)
        return Plain(x if shift is None else self._subtracted(x, shift), total)

    def _standardized(self, x, shift, residual, inverse):
        return self._subtracted(x, shift) * inverse - residual * inverse

    def _subtracted(self, x, shift):
        # XLA subtracts on the way to something else, but copies what a branch passes on.
        if self._target is not Target.TENSORFLOW:
            return x - shift
        return tf.cond(tf.reduce_any(shift != 0), lambda: x - shift, lambda: x)

    def _gradients(self, g, x, shift, residual, inverse, gamma):
        """Returns the gradients as above, with p = sum(g h), s = sum(g) by channel.

        to x = gamma r g + w (slope (x - shift) + offset), where slope = -r^2 / n sum(gamma p) and
        offset = -r / n sum(gamma s) - slope residual.
        """
        centered = self._by_channel(x, shift, gamma * inverse)
        weighted, products, sums = centered.weighted(g, gamma * inverse)
        products = (products - residual * sums) * inverse
        size = self._count(g)
        across = self._view.across
        slope = across(gamma * products) / -size * inverse * inverse
        offset = across(gamma * sums) / -size * inverse - slope * residual
        if not self._centered:
            offset = tf.zeros_like(offset)
        dx = weighted + self.masked.counted(centered.scaled(slope, offset))
        return dx, sum_like(products, gamma), sum_like(sums, gamma)

    def _gradients_of_rows(self, g, x, shift, residual, inverse, gamma):
        """The same where gamma and beta span all axes of a set."""
        standardized = self._standardized(x, shift, residual, inverse)
        weighted, dgamma, dbeta = self._by_column(standardized, gamma).weighted(g, gamma)
        second = standardized * mean(weighted * standardized, self._view)
        first = mean(weighted, self._view) if self._centered else 0.0
        return (weighted - first - second) * inverse, dgamma, dbeta


registry.register(
    "normalize",
    "tensorflow",
    normalize,
    options=["centered", "exported", "mask", "moments", "replicas"],
)
