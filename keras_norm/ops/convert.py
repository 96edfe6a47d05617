"""The dtype and the shape to calculate in."""

import keras
from keras import ops


def at_least_float32(*dtypes):
    """Returns the dtype that statistics are computed or kept in: float64 if one of `dtypes` is."""
    is_double = "float64" in map(keras.backend.standardize_dtype, dtypes)
    return "float64" if is_double else "float32"


def convert(values, dtype, shape=None):
    """Returns an array or variable in a dtype, and in a shape if one is given."""
    values = ops.cast(values, dtype)
    return values if shape is None else ops.reshape(values, shape)
