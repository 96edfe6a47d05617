"""Keras's three layers into ours, and back."""

import keras

from keras_norm import layers
from keras_norm.conversion.arguments import check, common_arguments, sorted_axes
from keras_norm.conversion.copying import contents
from keras_norm.conversion.replacing import exchange
from keras_norm.conversion.unmasked import (
    UnmaskedGroupNormalization,
    UnmaskedLayerNormalization,
)
from keras_norm.initializers import NarrowNormal, SizeFunction, for_shape

_MULTIPLIERS = [f"{v}_{kind}_multiplier" for v in ("beta", "gamma") for kind in ("lr", "l2")]
_OF_BATCH = ("momentum", "synchronized", "moving_mean_initializer", "moving_variance_initializer")


def from_keras(model):
    """Returns a copy of a model in which our layers take the place of Keras's.

    Every `BatchNormalization`, `LayerNormalization` and `GroupNormalization` of Keras becomes ours
    with the same arguments, name, weights, trainable flag, dtype policy and multipliers, so that
    outputs are the same in inference and in training. Layers are found wherever they are: in
    functional, Sequential and subclassed models, in models, wrappers and custom layers within
    them, shared or not. All else is copied as it is, also a `train_step` of the model's own.

    Keras's layer and group normalization take no mask, ours do. In a model that makes masks
    (`Embedding` with `mask_zero`, `Masking`, ...) they therefore become layers that ignore masks.

    Args:
        model: A Keras model or layer. It is left as it is.

    Returns:
        The copy. It shares no weights with `model`, and has to be compiled.

    Raises:
        TypeError: If `model` is no Keras layer.
        ValueError: If our layers lack an argument that is in use (`renorm`, `rms_scaling`), if a
            normalization layer is of a class derived from Keras's, or if it is in a compiled
            function, where nothing can reach it. The message names the layer.

    Example:
    >>> import keras, keras_norm
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="norm")])
    >>> layer = keras_norm.from_keras(model).get_layer("norm")
    >>> isinstance(layer, keras_norm.BatchNormalization), layer.epsilon
    (True, 0.001)

    Reference:
        https://keras.io/api/layers/normalization_layers/
    """
    return _translated(model, _TO_OURS)


def to_keras(model):
    """Returns a copy of a model in which Keras's layers take the place of ours.

    The way back from `from_keras`, with the same care: outputs, names, weights, trainable flags
    and dtype policies stay.

    Args:
        model: A Keras model or layer. It is left as it is.

    Returns:
        The copy. It shares no weights with `model`, and has to be compiled.

    Raises:
        TypeError: If `model` is no Keras layer.
        ValueError: If Keras's layers cannot do the same: multipliers other than 1, two momenta,
            `reduction_axes` other than `axis`, masks for layer and group normalization, ... The
            message names layer and argument.

    Example:
    >>> import keras, keras_norm
    >>> model = keras.Sequential([keras.Input((3,)), keras_norm.BatchNormalization(name="norm")])
    >>> layer = keras_norm.to_keras(model).get_layer("norm")
    >>> isinstance(layer, keras.layers.BatchNormalization), layer.epsilon
    (True, 1e-05)

    Reference:
        https://keras.io/api/layers/normalization_layers/
    """
    return _translated(model, _TO_KERAS)


def _translated(model, table):
    """Returns a copy of `model` with the layers of the classes in `table` translated."""
    makes_masks = any(map(_makes_masks, contents(model)))

    def translate(layer):
        described = f"Layer '{layer.name}' ({type(layer).__name__})"
        if not isinstance(layer, tuple(table)):
            return None
        known = next(cls for cls in type(layer).__mro__ if cls in table)
        # What matlab and wolfram derive from our layers does what these do.
        if type(layer) is not known and not type(layer).__module__.startswith("keras_norm."):
            raise ValueError(
                f"{described} is of a class derived from a normalization layer, so what is equal "
                "to it is not known. Say it with `keras_norm.conversion.replace_normalization`."
            )
        try:
            return table[known](layer, makes_masks)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{described} cannot be converted. {error}") from error

    return exchange(model, translate)[0]


def _makes_masks(x):
    """Says whether `x`, a part of a model, is a mask's maker, or a symbolic tensor that has one."""
    if isinstance(x, keras.KerasTensor):
        return getattr(x, "_keras_mask", None) is not None
    if isinstance(x, keras.layers.Masking) or getattr(x, "mask_zero", False) is True:
        return True
    if not isinstance(x, keras.layers.Layer):
        return False
    # Keras's other layers, and ours, pass masks on.
    author = next(cls for cls in type(x).__mro__ if "compute_mask" in vars(cls))
    return author.__module__.partition(".")[0] not in ("keras", "keras_norm")


def _batch_to_ours(layer, makes_masks):
    check("renorm", getattr(layer, "renorm", False), False)
    return layers.BatchNormalization(
        **common_arguments(layer), **{name: getattr(layer, name) for name in _OF_BATCH}
    )


def _layer_to_ours(layer, makes_masks):
    check("rms_scaling", getattr(layer, "rms_scaling", False), False)
    axis = layer.axis
    if isinstance(axis, list) and len(axis) == 1:
        axis = axis[0]
    cls = UnmaskedLayerNormalization if makes_masks else layers.LayerNormalization
    return cls(**common_arguments(layer) | {"axis": axis, "reduction_axes": axis})


def _group_to_ours(layer, makes_masks):
    cls = UnmaskedGroupNormalization if makes_masks else layers.GroupNormalization
    return cls(groups=layer.groups, **common_arguments(layer))


def _batch_to_keras(layer, makes_masks):
    check("variance_momentum", layer.variance_momentum, None, layer.momentum)
    return keras.layers.BatchNormalization(**_keras_arguments(layer, _OF_BATCH))


def _layer_to_keras(layer, makes_masks):
    _refuse_masks(makes_masks)
    axes = sorted_axes(layer, "axis")
    if axes != sorted_axes(layer, "reduction_axes"):
        raise ValueError(
            "Keras's layer takes the moments over the axes that gamma and beta span: argument "
            "`reduction_axes` must name the same as `axis`. "
            f"Received: reduction_axes={layer.reduction_axes}, axis={layer.axis}"
        )
    return keras.layers.LayerNormalization(**_keras_arguments(layer) | {"axis": axes})


def _group_to_keras(layer, makes_masks):
    _refuse_masks(makes_masks)
    groups = {"all-channels": 1, "channel-wise": -1}.get(layer.groups, layer.groups)
    return keras.layers.GroupNormalization(groups=groups, **_keras_arguments(layer))


def _without_masks(translate):
    """Returns `translate` for a layer that ignores masks."""
    return lambda layer, makes_masks: translate(layer, False)


def _refuse_masks(makes_masks):
    if makes_masks:
        raise ValueError(
            "Keras's layer has no call argument `mask`, but the model makes masks (`Masking`, "
            "`mask_zero` of `Embedding`, ...)."
        )


def _keras_arguments(layer, names=()):
    """Returns the layer's arguments as Keras's layers take them."""
    for name in _MULTIPLIERS:
        check(name, getattr(layer, name), 1.0)
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
                "its values can stand for it."
            )
        initializer = keras.initializers.Constant(initializer.values)
    variable = getattr(layer, name.removesuffix("_initializer"))
    if variable is None:
        return initializer
    return for_shape(initializer, tuple(variable.shape), name, f"layer '{layer.name}'")


_TO_OURS = {
    keras.layers.BatchNormalization: _batch_to_ours,
    keras.layers.LayerNormalization: _layer_to_ours,
    keras.layers.GroupNormalization: _group_to_ours,
}
_TO_KERAS = {
    layers.BatchNormalization: _batch_to_keras,
    layers.LayerNormalization: _layer_to_keras,
    layers.GroupNormalization: _group_to_keras,
    UnmaskedLayerNormalization: _without_masks(_layer_to_keras),
    UnmaskedGroupNormalization: _without_masks(_group_to_keras),
}
