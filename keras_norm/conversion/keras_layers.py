"""Conversion of single layers of Keras to ours and back, with one pair of functions per kind.

Each function takes a layer, and whether the model makes masks, and returns an unbuilt layer.
"""

import keras

from keras_norm import layers
from keras_norm.conversion.arguments import common_arguments, require, sorted_axes
from keras_norm.conversion.unmasked import (
    Unmasked,
    UnmaskedGroupNormalization,
    UnmaskedLayerNormalization,
    UnmaskedRMSNormalization,
)
from keras_norm.initializers import NarrowNormal, SizeFunction, for_shape

_MULTIPLIERS = [f"{v}_{kind}_multiplier" for v in ("beta", "gamma") for kind in ("lr", "l2")]
_OF_BATCH = ("momentum", "synchronized", "moving_mean_initializer", "moving_variance_initializer")
_OF_RENORM = ("renorm", "renorm_clipping", "renorm_momentum")
_OF_KERAS_RMS = ("epsilon", "activity_regularizer", "name", "trainable")


def batch_from_keras(layer, makes_masks):
    """Returns our layer for Keras's BatchNormalization."""
    names = (*_OF_BATCH, *(_OF_RENORM if getattr(layer, "renorm", False) else ()))
    return layers.BatchNormalization(
        **common_arguments(layer), **{name: getattr(layer, name) for name in names}
    )


def layer_from_keras(layer, makes_masks):
    """Returns our layer for Keras's LayerNormalization."""
    require("rms_scaling", getattr(layer, "rms_scaling", False), False)
    axis = _as_given(layer.axis)
    cls = UnmaskedLayerNormalization if makes_masks else layers.LayerNormalization
    return cls(**common_arguments(layer) | {"axis": axis, "reduction_axes": axis})


def group_from_keras(layer, makes_masks):
    """Returns our layer for Keras's GroupNormalization."""
    cls = UnmaskedGroupNormalization if makes_masks else layers.GroupNormalization
    return cls(groups=layer.groups, **common_arguments(layer))


def rms_from_keras(layer, makes_masks):
    """Returns our layer for Keras's RMSNormalization."""
    cls = UnmaskedRMSNormalization if makes_masks else layers.RMSNormalization
    arguments = {name: getattr(layer, name) for name in _OF_KERAS_RMS}
    return cls(axis=_as_given(layer.axis), dtype=layer.dtype_policy, **arguments)


def batch_to_keras(layer, makes_masks):
    """Returns Keras's layer for our BatchNormalization."""
    require("variance_momentum", layer.variance_momentum, None, layer.momentum)
    arguments = _keras_arguments(layer, _OF_BATCH)
    if layer.renorm:
        if not hasattr(keras.layers.BatchNormalization(), "renorm"):
            raise ValueError(
                "Argument `renorm` requires Keras 3.14 or later. "
                f"Received: renorm=True, with Keras {keras.__version__}"
            )
        arguments |= {name: getattr(layer, name) for name in _OF_RENORM}
    return keras.layers.BatchNormalization(**arguments)


def layer_to_keras(layer, makes_masks):
    """Returns Keras's layer for our LayerNormalization."""
    axes = _spanned_and_reduced(layer, makes_masks)
    return keras.layers.LayerNormalization(**_keras_arguments(layer) | {"axis": axes})


def group_to_keras(layer, makes_masks):
    """Returns Keras's layer for our GroupNormalization and InstanceNormalization."""
    _refuse_masks(layer, makes_masks)
    groups = {"all-channels": 1, "channel-wise": -1}.get(layer.groups, layer.groups)
    return keras.layers.GroupNormalization(groups=groups, **_keras_arguments(layer))


def rms_to_keras(layer, makes_masks):
    """Returns Keras's layer for our RMSNormalization."""
    axes = _spanned_and_reduced(layer, makes_masks)
    for name, accepted in {
        "scale": True,
        "center": False,
        "gamma_offset": 0.0,
        "gamma_regularizer": None,
        "gamma_constraint": None,
    }.items():
        require(name, getattr(layer, name), accepted)
    if not layer.built and not isinstance(layer.gamma_initializer, keras.initializers.Ones):
        raise ValueError(
            "Argument `gamma_initializer` must be 'ones' until the layer is built: Keras's layer "
            f"has no such argument. Received: {layer.gamma_initializer!r}"
        )
    arguments = _keras_arguments(layer)
    return keras.layers.RMSNormalization(
        axis=axes, dtype=arguments["dtype"], **{name: arguments[name] for name in _OF_KERAS_RMS}
    )


def _as_given(axis):
    """Returns the axis of Keras's layer as given; Keras converts a number to a list."""
    return axis[0] if isinstance(axis, list) and len(axis) == 1 else axis


def _spanned_and_reduced(layer, makes_masks):
    """Returns the axes that gamma spans, after checking that the moments are taken over them."""
    _refuse_masks(layer, makes_masks)
    axes = sorted_axes(layer, "axis")
    is_default = layer.reduction_axes is None and layer.reduces_axis
    if not is_default and axes != sorted_axes(layer, "reduction_axes"):
        raise ValueError(
            "Keras's layer takes the moments over the axes that gamma and beta span: argument "
            "`reduction_axes` must name the same as `axis`. "
            f"Received: reduction_axes={layer.reduction_axes}, axis={layer.axis}"
        )
    return axes


def _refuse_masks(layer, makes_masks):
    if makes_masks and not isinstance(layer, Unmasked):
        raise ValueError(
            "Keras's layer has no call argument `mask`, but the model makes masks (`Masking`, "
            "`mask_zero` of `Embedding`, ...)."
        )


def _keras_arguments(layer, names=()):
    """Returns the layer's arguments as Keras's layers take them."""
    for name in _MULTIPLIERS:
        require(name, getattr(layer, name), 1.0)
    arguments = common_arguments(layer) | {name: getattr(layer, name) for name in names}
    for name, value in arguments.items():
        if name.endswith("_initializer"):
            arguments[name] = _keras_initializer(layer, name, value)
    return arguments


def _keras_initializer(layer, name, initializer):
    if isinstance(initializer, NarrowNormal):
        return keras.initializers.RandomNormal(mean=0.0, stddev=0.01, seed=initializer.seed)
    if isinstance(initializer, SizeFunction):
        if initializer.values is None:
            raise ValueError(
                f"Argument `{name}` is a function of the size: build the layer first, so that "
                "the function's values are known."
            )
        initializer = keras.initializers.Constant(initializer.values)
    variable = getattr(layer, name.removesuffix("_initializer"))
    if variable is None:
        return initializer
    return for_shape(initializer, tuple(variable.shape), name, f"layer '{layer.name}'")
