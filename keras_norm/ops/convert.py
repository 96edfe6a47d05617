"""Conversions of dtype and shape."""

import keras
import numpy as np
from keras import ops


def at_least_float32(*dtypes):
    """Returns the dtype of statistics: float64 if one of `dtypes` is float64, else float32."""
    # A list: PyTorch 2.9 cannot compile a search in a `map`.
    is_double = "float64" in [keras.backend.standardize_dtype(dtype) for dtype in dtypes]
    return "float64" if is_double else "float32"


def convert(values, dtype, shape=None):
    """Returns an array or variable in a dtype, and in a shape if one is given.

    Nothing is called if dtype and shape fit already: each call of `keras.ops` searches for symbolic
    tensors, which takes as long as the whole normalization of a small array.
    """
    if keras.backend.standardize_dtype(values.dtype) != dtype:
        values = ops.cast(values, dtype)
    elif isinstance(values, keras.Variable):
        values = values.value
    elif isinstance(values, np.ndarray):  # `stateless_call` converts no arrays
        values = ops.convert_to_tensor(values)
    if shape is None:
        return values
    return values.reshape(shape) if hasattr(values, "reshape") else ops.reshape(values, shape)
