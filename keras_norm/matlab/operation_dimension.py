"""MATLAB's `OperationDimension`, in the axes of Keras."""

import keras

from keras_norm.layers import LayerNormalization

DIMENSIONS = ("auto", "channel-only", "spatial-channel", "batch-excluded")


@keras.saving.register_keras_serializable("keras_norm")
class LayerNormalizationLayer(LayerNormalization):
    """A `LayerNormalization` that is told by MATLAB's word what to take the moments over.

    With "auto" it is the number of the input's axes that decides, so that `reduction_axes` is not
    known before the layer is built. Otherwise it is a `LayerNormalization` like any other.

    Args:
        operation_dimension: "auto", "channel-only", "spatial-channel" or "batch-excluded".
        **kwargs: Arguments of `LayerNormalization` but `reduction_axes`.
    """

    def __init__(self, operation_dimension="auto", **kwargs):
        super().__init__(**kwargs)
        self.operation_dimension = operation_dimension

    def build(self, input_shape):
        """Finds the axes for the moments, and creates gamma and beta."""
        channels_only = self.operation_dimension == "channel-only" or (
            self.operation_dimension == "auto" and len(input_shape) <= 3
        )
        self.reduction_axes = -1 if channels_only else None
        super().build(input_shape)

    def get_config(self):
        """Returns the constructor's arguments."""
        config = {**super().get_config(), "operation_dimension": self.operation_dimension}
        del config["reduction_axes"]
        return config


def operation_dimension(layer):
    """Returns MATLAB's word for the axes that a `LayerNormalization` takes its moments over."""
    if isinstance(layer, LayerNormalizationLayer):
        return layer.operation_dimension
    if layer.reduction_axes is None:
        return "batch-excluded"
    return "channel-only" if layer.reduction_axes == layer.axis else layer.reduction_axes
