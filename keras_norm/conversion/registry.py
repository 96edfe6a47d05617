"""Translations of classes that are not in the table of kinds."""

import sys

import keras

from keras_norm._validation import shown
from keras_norm.conversion.kinds import KINDS

_translations = {}


def register(cls, translate):
    """Registers a translation for a class of layers or modules.

    `from_keras` calls `translate` for layers whose class is exactly `cls`. So do `from_torch` and
    `from_flax` for their modules, and `to_keras` if `cls` derives from a layer of keras_norm.
    Classes derived from `cls` are not registered.

    Args:
        cls: A class of Keras layers, or of modules of PyTorch or Flax.
        translate: Function of an object of the class that returns the layer for it. `from_keras`
            and `to_keras` build the new layer for the input of the old one, and copy the weights
            that have the same name and size; "scale" is the same as "gamma". They warn if weights
            have no counterpart, except if the new layer has values as its initializers or is built.

    Raises:
        TypeError: If `cls` is not a class, or `translate` is not callable.
        ValueError: If the package translates `cls` itself.

    Example:
    >>> import keras, keras_norm
    >>> class GemmaNormalization(keras.layers.Layer):
    ...     def build(self, input_shape):
    ...         self.scale = self.add_weight(
    ...             name="scale", shape=(input_shape[-1],), initializer="zeros"
    ...         )
    ...
    ...     def call(self, x):
    ...         square = keras.ops.mean(x * x, axis=-1, keepdims=True)
    ...         return x * keras.ops.rsqrt(square + 1e-6) * (1 + self.scale)
    >>> def translate(layer):
    ...     return keras_norm.RMSNormalization(
    ...         gamma_offset=1.0, gamma_initializer="zeros", name=layer.name
    ...     )
    >>> keras_norm.conversion.register(GemmaNormalization, translate)
    >>> model = keras.Sequential([keras.Input((3,)), GemmaNormalization()])
    >>> type(keras_norm.from_keras(model).layers[0]).__name__
    'RMSNormalization'

    Reference:
        https://arxiv.org/abs/2403.08295 (Gemma, the example)
    """
    if not isinstance(cls, type):
        raise TypeError(f"Argument `cls` must be a class. Received: {shown(cls)}")
    if not callable(translate):
        raise TypeError(f"Argument `translate` must be a function. Received: {shown(translate)}")
    if _is_in_table(cls):
        raise ValueError(
            f"Argument `cls` must be a class that is not translated already. Received: {shown(cls)}"
        )
    _translations[cls] = translate


def _is_in_table(cls):
    """Returns whether a class is in the table of kinds, without importing PyTorch or Flax."""
    nn, nnx = map(sys.modules.get, ("torch.nn", "flax.nnx"))
    return any(
        cls is kind.keras
        or cls in kind.ours
        or any(cls is getattr(nn, name, None) for name in kind.torch)
        or any(cls is getattr(nnx, name, None) for name in kind.flax)
        for kind in KINDS
    )


def translated(x):
    """Returns the layer for `x` by the function registered for its class; None without one.

    Raises:
        TypeError: If the function does not return a new layer.
    """
    translate = _translations.get(type(x))
    if translate is None:
        return None
    layer = translate(x)
    if not isinstance(layer, keras.layers.Layer) or layer is x:
        raise TypeError(
            f"The function registered for {type(x).__name__} must return a new Keras layer. "
            f"Received: {layer!r}"
        )
    return layer
