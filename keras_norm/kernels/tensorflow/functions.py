"""The kernel and its gradients."""

import enum

import tensorflow as tf
from tensorflow.python.eager import forwardprop_util
from tensorflow.python.ops import control_flow_util

from keras_norm import ops
from keras_norm.kernels.tensorflow.multiplied import Fused, Plain
from keras_norm.kernels.tensorflow.sums import count, mean, mean_square, parts, sum_like, sum_over
from keras_norm.kernels.view import LARGEST_MEAN, View, spanned_axes
from keras_norm.ops import registry
from keras_norm.ops.convert import at_least_float32

# Sizes that stages are exact for.
LONGEST = 4096

# What a call is traced for: XLA, which fuses operations; TensorFlow, which runs one after the
# other; or perhaps an exporter, which knows the plain ones only, and no branches.
Target = enum.Enum("Target", ["XLA", "TENSORFLOW", "EXPORT"])


def normalize(problem, x, gamma, beta, weights, combine):
    """Solves a problem of `keras_norm.ops.normalize`."""
    axes, epsilon = problem.axes, problem.epsilon
    if not isinstance(x, tf.Tensor) or x.shape.rank is None or _has_tangent(x):
        return None
    sizes = x.shape.as_list()
    spanned = spanned_axes(gamma, beta)
    if spanned is None:
        return None
    inner = [axis for axis in axes if axis not in spanned]
    # A batch of unknown size is fine where its samples are summed first.
    first = 0 if inner in ([], [0]) else 1
    if None in sizes[first:] or any(size > LONGEST for size in sizes if size is not None):
        return None
    view = View(sizes, axes, spanned, parts)
    gamma, beta = (v if v is None else view.of(tf.convert_to_tensor(v)) for v in (gamma, beta))
    dtype = at_least_float32(x.dtype)
    given = next((v for v in (gamma, beta) if v is not None), tf.zeros([1] * view.rank, dtype))
    gamma = tf.ones_like(given) if gamma is None else gamma
    beta = tf.zeros_like(given) if beta is None else beta
    function = _function(view, epsilon, _target(problem.exported))
    y, *moments = function(view.of(x), gamma, beta)
    y = tf.reshape(y, [-1 if size is None else size for size in sizes])
    if not problem.moments:
        return y, None
    elements = tf.reduce_prod(tf.gather(tf.shape(x), tf.constant(axes, tf.int32)))
    return y, ops.Moments(tf.cast(elements, dtype), *map(view.moment, moments))


def _has_tangent(x):
    """Returns whether a `ForwardAccumulator` watches x. TensorFlow has no public function for it.

    In a graph it would look past the gradients given here, at the operations that are behind them.
    """
    return bool(forwardprop_util.pack_tangents([x]).indices)


def _target(exported):
    if _is_for_xla():
        return Target.XLA
    # What may be exported asks for no stages of open sizes.
    return Target.TENSORFLOW if not exported or tf.executing_eagerly() else Target.EXPORT


def _is_for_xla():
    """Returns whether what is traced now is for XLA. TensorFlow has no public function for it."""
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _function(view, epsilon, target):
    """Returns the function from x, gamma and beta to output, shift, residual and variance."""

    def by_channel(x, shift, scale):
        return _multiplied(x, shift, scale, lambda v: sum_over(v, view), target)

    def by_column(standardized, gamma):
        return _multiplied(standardized, None, gamma, lambda v: sum_like(v, gamma), target)

    @tf.custom_gradient
    def function(kept, gamma, beta):
        x = tf.cast(kept, gamma.dtype)
        shift, residual, variance = _moments(x, view, target)
        inverse = tf.math.rsqrt(variance + epsilon)
        if view.is_by_channel:
            scale = gamma * inverse
            offset = beta - residual * scale
            y = by_channel(x, shift, scale).scaled(scale, offset)
        else:
            standardized = _standardized(x, shift, residual, inverse, target)
            y = by_column(standardized, gamma).scaled(gamma, beta)

        def gradient(g, *_):
            """Returns the gradients of input, gamma and beta."""
            x, g = tf.cast(kept, gamma.dtype), tf.cast(g, gamma.dtype)
            if view.is_by_channel:
                centered = by_channel(x, shift, gamma * inverse)
                found = _gradients(g, centered, residual, inverse, gamma, view)
            else:
                standardized = _standardized(x, shift, residual, inverse, target)
                columns = by_column(standardized, gamma)
                found = _gradients_of_rows(g, standardized, columns, inverse, gamma, view)
            dx, *parameters = found
            return tf.cast(dx, kept.dtype), *parameters

        return (tf.cast(y, kept.dtype), shift, residual, variance), gradient

    return function


def _moments(x, view, target):
    """Returns shift, residual and variance."""
    # The norm is no plain operation.
    first, variance = _mean_and_variance(x, view, is_norm=target is Target.TENSORFLOW)

    def near():
        return tf.zeros_like(first), first, variance

    def far():
        # Without this selection compilers contract a multiplication in the mean with the
        # subtractions of it, and not in all places the same way.
        shift = tf.where(tf.math.is_finite(first), first, tf.zeros_like(first))
        shift = tf.stop_gradient(shift)
        # TensorFlow cannot vectorize the norm in a branch that no sample takes.
        return shift, *_mean_and_variance(x - shift, view)

    if target is Target.EXPORT:
        return far()
    is_near = tf.square(first) <= LARGEST_MEAN**2 * variance
    return tf.cond(tf.reduce_all(is_near & tf.math.is_finite(variance)), near, far)


def _mean_and_variance(x, view, is_norm=False):
    first = mean(x, view)
    square = mean_square(x, view) if is_norm else mean(tf.square(x), view)
    return first, tf.nn.relu(square - tf.square(first))


def _multiplied(x, shift, scale, total, target):
    """Returns x - shift, or x without one, to be multiplied by a scale and added up for it."""
    if target is Target.TENSORFLOW and Fused.suits(x, scale):
        return Fused(x, tf.zeros_like(scale) if shift is None else shift, total)
    return Plain(x if shift is None else _subtracted(x, shift, target), total)


def _standardized(x, shift, residual, inverse, target):
    return _subtracted(x, shift, target) * inverse - residual * inverse


def _subtracted(x, shift, target):
    # XLA subtracts on the way to something else, but copies what a branch passes on.
    if target is not Target.TENSORFLOW:
        return x - shift
    return tf.cond(tf.reduce_any(shift != 0), lambda: x - shift, lambda: x)


def _gradients(g, centered, residual, inverse, gamma, view):
    weighted, products, sums = centered.weighted(g, gamma * inverse)
    products = (products - residual * sums) * inverse
    size = count(g, view)
    slope = view.across(gamma * products) / -size * inverse * inverse
    offset = view.across(gamma * sums) / -size * inverse - slope * residual
    dx = weighted + centered.scaled(slope, offset)
    return dx, sum_like(products, gamma), sum_like(sums, gamma)


def _gradients_of_rows(g, standardized, columns, inverse, gamma, view):
    """The same where gamma and beta span all axes of a set."""
    weighted, dgamma, dbeta = columns.weighted(g, gamma)
    first = mean(weighted, view)
    second = mean(weighted * standardized, view)
    return (weighted - first - standardized * second) * inverse, dgamma, dbeta


registry.register("normalize", "tensorflow", normalize, options=["exported", "moments"])
