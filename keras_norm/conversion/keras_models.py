"""Conversion of models with Keras's normalization layers to models with ours, and back."""

import warnings

import keras
from keras.initializers import Constant

from keras_norm._contents import contents
from keras_norm.conversion.arguments import change_of
from keras_norm.conversion.kinds import KINDS, kind_of
from keras_norm.conversion.registry import translated
from keras_norm.conversion.replacing import exchange
from keras_norm.layers.normalization import Normalization


def from_keras(model):
    """Returns a copy of a model with the layers of keras_norm in place of Keras's.

    Every `BatchNormalization`, `LayerNormalization`, `GroupNormalization` and `RMSNormalization` of
    Keras, and every layer of a class that is registered with `conversion.register`, is replaced by
    a layer of keras_norm. Arguments, name, weights, trainable flag, dtype policy and multipliers
    stay the same, and so do outputs in inference and in training. Layers are found in functional,
    Sequential and subclassed models, and in inner models, wrappers and custom layers, shared or
    not. Everything else is copied unchanged, including a custom `train_step`.

    Keras's layer, group and RMS normalization do not support masks; ours do. In a model that makes
    masks (`Embedding` with `mask_zero`, `Masking`, ...), they become layers that ignore masks.

    Args:
        model: A Keras model or layer. It does not change.

    Returns:
        The copy. It shares no weights with `model`, and is not compiled.

    Raises:
        TypeError: If `model` is not a Keras layer.
        ValueError: If our layer lacks an argument that is in use (`rms_scaling`), if the class of a
            normalization layer is derived from Keras's and not registered, or if a compiled
            function contains the layer, which cannot be copied. The message names the layer.

    Example:
    >>> import keras, keras_norm
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="norm")])
    >>> layer = keras_norm.from_keras(model).get_layer("norm")
    >>> isinstance(layer, keras_norm.BatchNormalization), layer.epsilon
    (True, 0.001)

    Reference:
        https://keras.io/api/layers/normalization_layers/
    """
    return _translated(model, {kind.keras: kind.from_keras for kind in KINDS if kind.keras}, False)


def to_keras(model):
    """Returns a copy of a model with Keras's layers in place of those of keras_norm.

    The inverse of `from_keras`: outputs, names, weights, trainable flags and dtype policies stay
    the same.

    Args:
        model: A Keras model or layer. It does not change.

    Returns:
        The copy. It shares no weights with `model`, and is not compiled.

    Raises:
        TypeError: If `model` is not a Keras layer.
        ValueError: If Keras's layers lack an argument that is in use: multipliers other than 1, two
            momenta, `reduction_axes` other than `axis`, masks for layer and group normalization,
            ... The message names layer and argument.

    Example:
    >>> import keras, keras_norm
    >>> model = keras.Sequential([keras.Input((3,)), keras_norm.BatchNormalization(name="norm")])
    >>> layer = keras_norm.to_keras(model).get_layer("norm")
    >>> isinstance(layer, keras.layers.BatchNormalization), layer.epsilon
    (True, 1e-05)

    Reference:
        https://keras.io/api/layers/normalization_layers/
    """
    return _translated(model, {cls: kind.to_keras for kind in KINDS for cls in kind.ours}, True)


def _translated(model, translations, is_ours):
    """Returns a copy of `model` with layers translated.

    Args:
        model: The model.
        translations: Dictionary of classes and functions.
        is_ours: Whether these classes, and the registered ones, are of keras_norm.
    """
    makes_masks = any(map(_makes_masks, contents(model)))
    unbuilt = []  # made by registered functions

    def translate(layer):
        if isinstance(layer, Normalization) is not is_ours:
            return None
        described = f"Layer '{layer.name}' ({type(layer).__name__})"
        try:
            new = translated(layer)
            if new is not None:
                unbuilt.extend([] if new.built else [new])
                return new
            if type(layer) in translations:
                if change := change_of(layer, type(layer)):
                    raise ValueError(
                        f"It {change}, so its equivalent is unknown. Replace it with "
                        "`keras_norm.conversion.replace_normalization`."
                    )
                return translations[type(layer)](layer, makes_masks)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{described} cannot be converted. {error}") from error
        if kind_of(layer) is None:
            return None
        raise ValueError(
            f"{described} is of a class derived from a normalization layer, so its equivalent "
            "is unknown. Register the class with `keras_norm.conversion.register`, or replace "
            "the layer with `keras_norm.conversion.replace_normalization`."
        )

    copy, replaced = exchange(model, translate)
    for old, new, kept in replaced:
        if any(new is layer for layer in unbuilt):
            _warn_of_lost_weights(old, new, kept)
    return copy


def _warn_of_lost_weights(old, new, kept):
    """Warns if weights of both layers have no counterpart, so that the outputs may differ."""
    missing = [
        variable.name
        for variable in new.weights
        if variable.name not in kept
        and not isinstance(getattr(new, f"{variable.name}_initializer", None), Constant)
    ]
    if missing and len(kept) < len(old.weights):
        found = ", ".join(f"{variable.name} {tuple(variable.shape)}" for variable in old.weights)
        warnings.warn(
            f"Layer '{old.name}' ({type(old).__name__}) has no weights with the name and size of "
            f"{', '.join(missing)} of the {type(new).__name__} that was registered for it, which "
            f"keeps its initial values. It has: {found}. Give the values as initializers.",
            stacklevel=4,
        )


def _makes_masks(x):
    """Returns whether a part of a model makes masks, or is a symbolic tensor that has one."""
    if isinstance(x, keras.KerasTensor):
        return getattr(x, "_keras_mask", None) is not None
    if isinstance(x, keras.layers.Masking) or getattr(x, "mask_zero", False) is True:
        return True
    if not isinstance(x, keras.layers.Layer):
        return False
    # Keras's other layers, and ours, pass masks on.
    author = next(cls for cls in type(x).__mro__ if "compute_mask" in vars(cls))
    return author.__module__.partition(".")[0] not in ("keras", "keras_norm")
