"""The layers of a model that can have population statistics."""

import keras

from keras_norm._contents import layers_of
from keras_norm.layers import BatchNormalization

REMEDY = "`keras_norm.from_keras` converts Keras's own BatchNormalization layers."


def normalizations(model):
    """Returns the `keras_norm.BatchNormalization` layers of a model.

    Raises:
        ValueError: If there are none.
    """
    layers = layers_of(model)
    ours = [layer for layer in layers if isinstance(layer, BatchNormalization)]
    if not ours:
        theirs = len(of_keras(model))
        raise ValueError(
            "Population statistics need a model with at least one "
            f"`keras_norm.BatchNormalization` layer. {REMEDY} Received: model "
            f"'{model.name}' with {len(layers)} layers, {theirs} of them Keras's own "
            "BatchNormalization"
        )
    return ours


def of_keras(model):
    """Returns the BatchNormalization layers of Keras in a model."""
    layers = layers_of(model)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
