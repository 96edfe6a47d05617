"""Functions that the conversions of all kinds from Flax's modules share."""

import numpy as np

from keras_norm.conversion.arguments import affine_arguments, require


def arguments(module):
    """Returns the arguments that all modules have."""
    dtype = variable_dtype = np.dtype(module.param_dtype).name
    if module.dtype is not None:
        dtype = np.dtype(module.dtype).name
    if dtype != variable_dtype:
        require("param_dtype", variable_dtype, "float32")
        require("dtype", dtype, "float16", "bfloat16")
        dtype = f"mixed_{dtype}"
    return {
        "epsilon": module.epsilon,
        "dtype": dtype,
        **affine_arguments(array(module.scale), array(getattr(module, "bias", None))),
    }


def array(parameter):
    """Returns a parameter's values in float64; None for None."""
    return None if parameter is None else np.asarray(parameter[...], "float64")


def from_axes(cls, module):
    """Returns a layer of a class, ours, for a module with `feature_axes` and `reduction_axes`."""
    return cls(axis=module.feature_axes, reduction_axes=module.reduction_axes, **arguments(module))
