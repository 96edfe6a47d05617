"""Layers that stand for Keras's where masks pass by: Keras's own take no mask."""

import keras

from keras_norm.layers import GroupNormalization, LayerNormalization, RMSNormalization


class Unmasked:
    """A layer that passes a mask on and does not use it, as Keras's layers.

    `from_keras` makes it where the model makes masks, so that the outputs stay the same. To have
    padding kept out of the moments, put a layer of the parent class in its place with
    `conversion.replace_normalization`.
    """

    def call(self, inputs, training=None):
        """Returns the normalized inputs."""
        return super().call(inputs, training=training)  # type: ignore[misc]


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedLayerNormalization(Unmasked, LayerNormalization):  # type: ignore[misc]
    """`LayerNormalization` that passes a mask on and does not use it."""


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedGroupNormalization(Unmasked, GroupNormalization):  # type: ignore[misc]
    """`GroupNormalization` that passes a mask on and does not use it."""


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedRMSNormalization(Unmasked, RMSNormalization):  # type: ignore[misc]
    """`RMSNormalization` that ends a mask and does not use it, as Keras's layer."""

    def compute_mask(self, inputs, previous_mask):
        """Returns None: what follows sees no mask."""
