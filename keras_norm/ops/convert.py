"""The dtype and the shape to calculate in."""

from keras import ops

from keras_norm.ops.accelerated import accelerated


@accelerated
def convert(values, dtype, shape=None):
    """Returns an array or variable in a dtype, and in a shape if one is given."""
    values = ops.cast(values, dtype)
    return values if shape is None else ops.reshape(values, shape)
