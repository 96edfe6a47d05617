"""Conversion of single modules of Flax to our layers, with one function per kind."""

import numpy as np

from keras_norm import layers
from keras_norm.conversion.arguments import affine_arguments, require


def from_batch_norm(module):
    """Returns our layer for an nnx.BatchNorm."""
    return layers.BatchNormalization(
        axis=module.axis,
        momentum=module.momentum,
        moving_mean_initializer=_array(module.mean),
        moving_variance_initializer=_array(module.var),
        num_channels=module.num_features,
        **_arguments(module),
    )


def from_layer_norm(module):
    """Returns our layer for an nnx.LayerNorm."""
    return layers.LayerNormalization(
        axis=module.feature_axes, reduction_axes=module.reduction_axes, **_arguments(module)
    )


def from_group_norm(module):
    """Returns our layer for an nnx.GroupNorm."""
    require("reduction_axes", module.reduction_axes, None)
    return layers.GroupNormalization(groups=module.num_groups, **_arguments(module))


def from_instance_norm(module):
    """Returns our layer for an nnx.InstanceNorm."""
    return layers.InstanceNormalization(
        axis=module.feature_axes, num_channels=module.num_features, **_arguments(module)
    )


def from_rms_norm(module):
    """Returns our layer for an nnx.RMSNorm."""
    return layers.RMSNormalization(
        axis=module.feature_axes, reduction_axes=module.reduction_axes, **_arguments(module)
    )


def _arguments(module):
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
        **affine_arguments(_array(module.scale), _array(getattr(module, "bias", None))),
    }


def _array(parameter):
    return None if parameter is None else np.asarray(parameter[...], "float64")
