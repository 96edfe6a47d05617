"""The dtype and the shape to calculate in."""

import keras
from keras import ops


def at_least_float32(*dtypes):
    """Returns the dtype that statistics are computed or kept in: float64 if one of `dtypes` is."""
    is_double = "float64" in map(keras.backend.standardize_dtype, dtypes)
    return "float64" if is_double else "float32"


def convert(values, dtype, shape=None):
    """Returns an array or variable in a dtype, and in a shape if one is given.

    What is there already costs nothing: each call of `keras.ops` looks for symbolic tensors, which
    takes as long as a small array's whole normalization.
    """
    if keras.backend.standardize_dtype(values.dtype) != dtype:
        values = ops.cast(values, dtype)
    elif isinstance(values, keras.Variable):
        values = values.value
    if shape is None:
        return values
    return values.reshape(shape) if hasattr(values, "reshape") else ops.reshape(values, shape)
