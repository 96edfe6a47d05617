"""MATLAB's `instanceNormalizationLayer`."""

import keras

from keras_norm.layers import InstanceNormalization
from keras_norm.matlab.base import Properties, made
from keras_norm.matlab.property_table import SHARED


@keras.saving.register_keras_serializable("keras_norm")
class InstanceNormalizationLayer(Properties, InstanceNormalization, properties=SHARED):
    """An `InstanceNormalization` with the same arguments, and MATLAB's properties as attributes."""


def instanceNormalizationLayer(*pairs, **properties):
    """Returns a `keras_norm.InstanceNormalization` with MATLAB's properties.

        output = Scale * (input - mean) / sqrt(variance + Epsilon) + Offset

    Mean and variance are those of each channel of each sample. The channels are the last axis of
    the input.

    Args:
        *pairs: Properties as names and values: `"Epsilon", 1e-4, "Name", "IN1"`.
        **properties: Properties as keywords: `Epsilon=1e-4, Name="IN1"`. They are those of
            `batchNormalizationLayer`, without TrainedMean, TrainedVariance, MeanDecay and
            VarianceDecay.

    Returns:
        A `keras_norm.InstanceNormalization`.

    Raises:
        TypeError: If a value is of a wrong type.
        ValueError: If a property is unknown, twice given or without a value, or a value is out
            of range.

    Example:
    >>> import keras, numpy as np
    >>> from keras_norm.matlab import instanceNormalizationLayer
    >>> layer = instanceNormalizationLayer(Name="IN1", Epsilon=1e-12)
    >>> y = layer(np.array([[[1.0, 10.0], [3.0, 30.0]]]))  # one sample, two steps, two channels
    >>> keras.ops.convert_to_numpy(y).tolist()
    [[[-1.0, -1.0], [1.0, 1.0]]]

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.instancenormalizationlayer.html
    """
    return made(InstanceNormalizationLayer, pairs, properties)
