"""What stands for Keras's layers where masks pass by: Keras's own take no mask."""


class Unmasked:
    """A layer that passes a mask on and does not use it, as Keras's layers.

    `from_keras` makes it where the model makes masks, so that the outputs stay the same. To have
    padding kept out of the moments, put a layer of the parent class in its place with
    `conversion.replace_normalization`.
    """

    def call(self, inputs, training=None):
        """Returns the normalized inputs."""
        return super().call(inputs, training=training)  # type: ignore[misc]
