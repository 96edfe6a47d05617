"""The base of layers that ignore masks, like Keras's layers."""


class Unmasked:
    """A layer that passes a mask on without using it, like Keras's layers.

    `from_keras` creates it in a model that makes masks, so that the outputs stay the same. To
    exclude padding from the moments, replace it with a layer of the parent class
    (`conversion.replace_normalization`).
    """

    def call(self, inputs, training=None):
        """Returns the normalized inputs."""
        return super().call(inputs, training=training)  # type: ignore[misc]
