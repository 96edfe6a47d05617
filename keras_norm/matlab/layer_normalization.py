"""MATLAB's `layerNormalizationLayer`."""

import keras

from keras_norm import _name_value
from keras_norm.layers import LayerNormalization
from keras_norm.matlab.base import Properties, made
from keras_norm.matlab.property_table import HYPERPARAMETERS, SHARED, Property

_DIMENSIONS = ("batch-excluded", "auto", "channel-only", "spatial-channel")


def _operation_dimension(layer):
    """Returns MATLAB's name of the axes that the moments of a `LayerNormalization` span."""
    if hasattr(layer, "operation_dimension"):
        return layer.operation_dimension
    if layer.reduction_axes is None:
        return "batch-excluded"
    return "channel-only" if layer.reduction_axes == layer.axis else layer.reduction_axes


_PROPERTIES = {
    **SHARED,
    "OperationDimension": Property(
        "operation_dimension",
        lambda name, value: _name_value.choice(name, value, _DIMENSIONS),
        _operation_dimension,
        HYPERPARAMETERS,
    ),
}


@keras.saving.register_keras_serializable("keras_norm")
class LayerNormalizationLayer(Properties, LayerNormalization, properties=_PROPERTIES):
    """A `LayerNormalization` with MATLAB's properties, including `OperationDimension`.

    With "auto", the axes of the moments depend on the rank of the input, so that `reduction_axes`
    is not known before the layer is built.

    Args:
        operation_dimension: "batch-excluded", "auto", "channel-only" or "spatial-channel".
        **kwargs: Arguments of `LayerNormalization` except `reduction_axes`.
    """

    def __init__(self, operation_dimension="batch-excluded", **kwargs):
        super().__init__(**kwargs)
        self._rank = None
        self.operation_dimension = operation_dimension

    @property
    def operation_dimension(self):
        """MATLAB's word for the axes of the moments."""
        return self._operation_dimension

    @operation_dimension.setter
    def operation_dimension(self, value):
        self._operation_dimension = value
        self._choose_axes()

    def _choose_axes(self):
        dimension, rank = self._operation_dimension, self._rank
        channels_only = dimension == "channel-only" or (
            dimension == "auto" and rank is not None and rank <= 3
        )
        self.reduction_axes = -1 if channels_only else None

    def build(self, input_shape):
        """Chooses the axes of the moments, and creates gamma and beta."""
        self._rank = len(input_shape)
        self._choose_axes()
        super().build(input_shape)

    @classmethod
    def from_config(cls, config):
        """Returns a layer with the arguments in `config`."""
        return cls(**config)

    def get_config(self):
        """Returns the constructor's arguments."""
        config = {**super().get_config(), "operation_dimension": self.operation_dimension}
        del config["reduction_axes"]
        return config


def layerNormalizationLayer(*pairs, **properties):
    """Returns a `keras_norm.LayerNormalization` with MATLAB's properties.

        output = Scale * (input - mean) / sqrt(variance + Epsilon) + Offset

    `OperationDimension` selects the axes of mean and variance; Scale and Offset have an entry for
    each channel. The channels are the last axis of the input. Keras does not distinguish time from
    space: "auto" treats an input of rank 3 as a sequence or a 1-D image, which are equivalent in
    MATLAB, and an input of rank 4 or more as an image.

    | OperationDimension | moments over |
    | --- | --- |
    | "batch-excluded" | space, time and channels: all axes except the batch |
    | "auto" | the channels, if the input's rank is 2 or 3, or else all axes except the batch |
    | "channel-only" | the channels |
    | "spatial-channel" | all axes except the batch |

    "batch-excluded", the default, is MATLAB's rule until R2022b; it mixes the time steps of a
    sequence. "auto" is MATLAB's default since R2023a.

    Args:
        *pairs: Properties as names and values: `"Epsilon", 1e-4, "Name", "LN1"`.
        **properties: Properties as keywords: `Epsilon=1e-4, Name="LN1"`. `OperationDimension`
            as above, default "batch-excluded"; the others are those of
            `batchNormalizationLayer`, without TrainedMean, TrainedVariance, MeanDecay and
            VarianceDecay.

    Returns:
        A `keras_norm.LayerNormalization`.

    Raises:
        TypeError: If a value is of a wrong type.
        ValueError: If a property is unknown, twice given or without a value, or a value is out
            of range.

    Example:
    >>> import keras, numpy as np
    >>> from keras_norm.matlab import layerNormalizationLayer
    >>> layer = layerNormalizationLayer(OperationDimension="auto", Epsilon=1e-12)
    >>> y = layer(np.array([[[1.0, 3.0], [5.0, 7.0]]]))  # one sample, two steps, two channels
    >>> keras.ops.convert_to_numpy(y).tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.layernormalizationlayer.html
    """
    return made(LayerNormalizationLayer, pairs, properties)
