"""Layers that stand for Keras's where masks pass by: Keras's own take no mask."""

import keras

from keras_norm.layers import GroupNormalization, LayerNormalization


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedLayerNormalization(LayerNormalization):
    """`LayerNormalization` that passes a mask on and does not use it, as Keras's layer.

    `from_keras` makes it where the model makes masks, so that the outputs stay the same. To have
    padding kept out of the moments, put a `LayerNormalization` in its place with
    `conversion.replace_normalization`.
    """

    def call(self, inputs, training=None):  # type: ignore[override]
        """Returns the normalized inputs."""
        return super().call(inputs, training=training)


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedGroupNormalization(GroupNormalization):
    """`GroupNormalization` that passes a mask on and does not use it, as Keras's layer.

    `from_keras` makes it where the model makes masks, so that the outputs stay the same. To have
    padding kept out of the moments, put a `GroupNormalization` in its place with
    `conversion.replace_normalization`.
    """

    def call(self, inputs, training=None):  # type: ignore[override]
        """Returns the normalized inputs."""
        return super().call(inputs, training=training)
