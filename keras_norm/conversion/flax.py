"""Flax's modules into our layers."""

import numpy as np

from keras_norm import layers
from keras_norm.conversion.arguments import affine_arguments, check


def from_flax(module):
    """Returns our layer that does what a normalization module of Flax (nnx) does.

    | Flax | keras_norm |
    | --- | --- |
    | nnx.BatchNorm | `BatchNormalization` |
    | nnx.LayerNorm | `LayerNormalization` |
    | nnx.GroupNorm | `GroupNormalization` |

    Outputs are equal in training and in inference, and so is what becomes of the statistics:
    momentum and variance mean the same as ours. A `dtype` of 16 bits over parameters of float32 is
    mixed precision here. Without a `dtype`, Flax promotes, where Keras casts to that of parameters.

    Args:
        module: The module. The layer works on whichever backend Keras runs.

    Returns:
        A layer with the module's values. It is built when it is first called; until then the
        values are its initializers.

    Raises:
        TypeError: If `module` is none of these.
        ValueError: If the module does what our layer cannot: moments over the devices of an
            `axis_name`, other `reduction_axes` of group normalization than its own, or another
            `dtype` than that of parameters that are not float32.

    Example:
    >>> from flax import nnx
    >>> from keras_norm.conversion import from_flax
    >>> layer = from_flax(nnx.BatchNorm(8, momentum=0.95, rngs=nnx.Rngs(0)))
    >>> layer.axis, layer.momentum, layer.num_channels
    (-1, 0.95, 8)

    Reference:
        https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/normalization.html
    """
    from flax import nnx

    tables = {nnx.BatchNorm: _batch, nnx.LayerNorm: _layer, nnx.GroupNorm: _group}
    if type(module) not in tables:
        raise TypeError(
            "Argument `module` must be a BatchNorm, LayerNorm or GroupNorm of flax.nnx. "
            f"Received: {module!r} (of type {type(module).__name__})"
        )
    try:
        check("axis_name", module.axis_name, None)
        return tables[type(module)](module)
    except ValueError as error:
        name = type(module).__name__
        raise ValueError(f"The nnx.{name} cannot be converted. {error}") from error


def _batch(module):
    return layers.BatchNormalization(
        axis=module.axis,
        momentum=module.momentum,
        moving_mean_initializer=_array(module.mean),
        moving_variance_initializer=_array(module.var),
        num_channels=module.num_features,
        **_arguments(module),
    )


def _layer(module):
    return layers.LayerNormalization(
        axis=module.feature_axes, reduction_axes=module.reduction_axes, **_arguments(module)
    )


def _group(module):
    check("reduction_axes", module.reduction_axes, None)
    return layers.GroupNormalization(groups=module.num_groups, **_arguments(module))


def _arguments(module):
    dtype = variable_dtype = np.dtype(module.param_dtype).name
    if module.dtype is not None:
        dtype = np.dtype(module.dtype).name
    if dtype != variable_dtype:
        check("param_dtype", variable_dtype, "float32")
        check("dtype", dtype, "float16", "bfloat16")
        dtype = f"mixed_{dtype}"
    return {
        "epsilon": module.epsilon,
        "dtype": dtype,
        **affine_arguments(_array(module.scale), _array(module.bias)),
    }


def _array(parameter):
    return None if parameter is None else np.asarray(parameter[...], "float64")
