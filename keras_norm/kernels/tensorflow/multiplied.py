"""Arrays and numbers for their channels, multiplied and added up: in two ways that differ in speed.

Both have the same two methods. Each is what the gradient of the other consists of, so that there
are derivatives of every order.
"""

import math

import tensorflow as tf

# A call of the fused operation costs 0.1 ms, which so many elements are worth,
ENOUGH_ELEMENTS = 1 << 20
# and copies of the numbers for the channels, which so many rows are to share.
ENOUGH_ROWS = 8
# A batch of unknown size is taken for one of the usual size.
USUAL_BATCH = 32


class Plain:
    """One operation after the other, which XLA fuses.

    Args:
        x: An array.
        total: A function that adds up an array of this shape for the channels.
    """

    def __init__(self, x, total):
        self._x, self._total = x, total

    def scaled(self, scale, offset):
        """Returns x * scale + offset."""
        return self._x * scale + offset

    def weighted(self, g, scale):
        """Returns g * scale, the totals of g * x, and the totals of g."""
        return g * scale, self._total(g * self._x), self._total(g)


class Fused:
    """TensorFlow's fused batch normalization, for x - shift, where it is exact.

    In inference it subtracts, multiplies and adds, in this order and one pass; its gradient is a
    product and two sums, in one pass, too. In training it would find moments, but adds up a batch
    as one long sum.

    Args:
        x: An array whose last axes are the channels.
        shift: A constant to subtract, of the rank of x, with a number for each channel.
        total: A function that adds up an array for the channels; also one that is summed over its
            first axes already.
    """

    def __init__(self, x, shift, total):
        self._x, self._shift, self._total = x, shift, total

    @staticmethod
    def suits(x, scale):
        """Returns whether x is large, and scale is for its last axes, on a CPU."""
        axes = _axes_before(scale)
        return (
            axes > 0
            and scale.shape[axes:] == x.shape[axes:]
            and x.dtype == tf.float32
            and math.prod(size or USUAL_BATCH for size in x.shape) >= ENOUGH_ELEMENTS
            and not tf.config.list_physical_devices("GPU")
        )

    def scaled(self, scale, offset):
        """Returns (x - shift) * scale + offset."""

        @tf.custom_gradient
        def function(x, scale, offset):
            axes = _axes_before(scale)
            row_scale, row_offset, shift = (_row(v, x, axes) for v in (scale, offset, self._shift))
            y, *_ = tf.raw_ops.FusedBatchNormV3(
                x=_rows(x, axes),
                scale=row_scale,
                offset=row_offset,
                mean=shift,
                variance=tf.ones_like(shift),
                epsilon=0.0,
                is_training=False,
            )
            y = tf.reshape(y, tf.shape(x))
            return y, lambda g: Fused(x, self._shift, self._total).weighted(g, scale)

        return function(self._x, scale, offset)

    def weighted(self, g, scale):
        """Returns g * scale, the totals of g * (x - shift), and the totals of g."""

        @tf.custom_gradient
        def function(x, g, scale):
            # One sum over all axes would be long: a row is what lies behind the first of them.
            size = x.shape[0]
            axes = 1 if size is None or size >= ENOUGH_ROWS else min(2, _axes_before(scale))
            row_scale, shift = (_row(v, x, axes) for v in (scale, self._shift))
            weighted, products, sums, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=_rows(g, axes),
                x=_rows(x, axes),
                scale=row_scale,
                reserve_space_1=shift,
                reserve_space_2=tf.ones_like(shift),
                reserve_space_3=[0.0],
                epsilon=0.0,
                is_training=False,
            )
            behind = [1] * axes + x.shape[axes:]
            products, sums = (self._total(tf.reshape(v, behind)) for v in (products, sums))

            def gradient(dweighted, dproducts, dsums):
                dg = Fused(x, self._shift, self._total).scaled(dproducts, dsums)
                return dproducts * g, dg + dweighted * scale, self._total(dweighted * g)

            return (tf.reshape(weighted, tf.shape(x)), products, sums), gradient

        return function(self._x, g, scale)


def _axes_before(scale):
    """Returns how many axes precede those of the channels."""
    return next((axis for axis, size in enumerate(scale.shape) if size != 1), scale.shape.rank)


def _rows(x, axes):
    """Returns an array as a matrix in the shape of images: rows, which so many axes make up."""
    return tf.reshape(x, [-1, 1, 1, math.prod(x.shape[axes:])])


def _row(v, x, axes):
    """Returns the numbers for the channels as one such row."""
    return tf.reshape(tf.broadcast_to(v, [1] * axes + x.shape[axes:]), [-1])
