"""Layers that ignore masks, like Keras's layers."""

import keras

from keras_norm.layers import GroupNormalization, LayerNormalization, RMSNormalization


class Unmasked:
    """A layer that passes a mask on without using it, like Keras's layers.

    `from_keras` creates it in a model that makes masks, so that the outputs stay the same. To
    exclude padding from the moments, replace it with a layer of the parent class
    (`conversion.replace_normalization`).
    """

    def call(self, inputs, training=None):
        """Returns the normalized inputs."""
        return super().call(inputs, training=training)  # type: ignore[misc]


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedLayerNormalization(Unmasked, LayerNormalization):  # type: ignore[misc]
    """`LayerNormalization` that passes a mask on without using it."""


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedGroupNormalization(Unmasked, GroupNormalization):  # type: ignore[misc]
    """`GroupNormalization` that passes a mask on without using it."""


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedRMSNormalization(Unmasked, RMSNormalization):  # type: ignore[misc]
    """`RMSNormalization` that drops a mask without using it, like Keras's layer."""

    def compute_mask(self, inputs, previous_mask):
        """Returns None: the layers that follow get no mask."""
