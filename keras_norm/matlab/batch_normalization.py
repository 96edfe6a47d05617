"""MATLAB's `batchNormalizationLayer`."""

import keras

from keras_norm import _validation
from keras_norm.layers import BatchNormalization
from keras_norm.matlab.base import Properties, made
from keras_norm.matlab.property_table import (
    HYPERPARAMETERS,
    SHARED,
    STATE_PARAMETERS,
    Property,
    values,
)


def _decay(argument):
    """Returns a decay: the weight of a batch's statistic. Our momentum is the old one's weight."""

    def convert(name, value):
        decay = _validation.real(name, value, low=0.0, high=1.0)
        if decay > 0 and 1.0 - decay == 1.0:
            raise ValueError(
                f"`{name}` must be 0 or at least 1.2e-16: 1 minus a smaller one is 1. "
                f"Received: {name}={value!r}"
            )
        return 1.0 - decay

    def read(layer):
        momentum = getattr(layer, argument)
        momentum = layer.momentum if momentum is None else momentum
        # The shortest decay with this momentum: 0.1, not 0.09999999999999998.
        decays = (float(f"{1.0 - momentum:.{digits}g}") for digits in range(1, 17))
        return next((decay for decay in decays if 1.0 - decay == momentum), 1.0 - momentum)

    return Property(argument, convert, read, HYPERPARAMETERS)


_PROPERTIES = {
    "TrainedMean": values("moving_mean", "moving_mean_initializer", "zeros", STATE_PARAMETERS),
    "TrainedVariance": values(
        "moving_variance", "moving_variance_initializer", "ones", STATE_PARAMETERS, low=0.0
    ),
    "MeanDecay": _decay("momentum"),
    "VarianceDecay": _decay("variance_momentum"),
    **SHARED,
}


@keras.saving.register_keras_serializable("keras_norm")
class BatchNormalizationLayer(Properties, BatchNormalization, properties=_PROPERTIES):
    """A `BatchNormalization` with the same arguments, and MATLAB's properties as attributes."""


def batchNormalizationLayer(*pairs, **properties):
    """Returns a `keras_norm.BatchNormalization` with MATLAB's properties.

    In training, the layer uses the mean and variance of each channel over the batch and all
    positions. In inference, it uses `TrainedMean` and `TrainedVariance`:

        output = Scale * (input - mean) / sqrt(variance + Epsilon) + Offset
        TrainedMean = MeanDecay * mean + (1 - MeanDecay) * TrainedMean
        TrainedVariance = VarianceDecay * variance + (1 - VarianceDecay) * TrainedVariance

    The channels are the last axis of the input, and the batch is the first. (In MATLAB, the batch
    axis follows the channels.)

    Args:
        *pairs: Properties as names and values: `"Epsilon", 1e-4, "Name", "BN1"`.
        **properties: Properties as keywords: `Epsilon=1e-4, Name="BN1"`.
            TrainedMean, TrainedVariance: The initial moving statistics, one value for each channel.
            Default: 0 and 1.
            Epsilon: Number > 0, added to the variance. Default: 1e-5.
            NumChannels: "auto", or the number of channels, which is checked.
            ScaleInitializer, OffsetInitializer: "ones", "zeros", "narrow-normal", or a function
            of the size. Defaults: "ones" and "zeros".
            Scale, Offset: The initial values, which override the initializers. Vectors, or arrays
            of a size such as 1-by-1-by-C.
            MeanDecay, VarianceDecay: Numbers in [0, 1]. Default: 0.1 each. (Keras's momentum is
            1 minus this.)
            ScaleLearnRateFactor, OffsetLearnRateFactor, ScaleL2Factor, OffsetL2Factor: Numbers
            >= 0 that `trainnet` multiplies the global rate or factor by. Default: 1 each.
            Name: String. Default: a name that Keras chooses.

    Returns:
        A `keras_norm.BatchNormalization`. The properties are also attributes that can be read and
        set: `layer.Epsilon = 1e-3`. Compile the model again after a change.

    Raises:
        TypeError: If a value is of a wrong type.
        ValueError: If a property is unknown, twice given or without a value, or a value is out
            of range.

    Example:
    >>> from keras_norm.matlab import batchNormalizationLayer
    >>> layer = batchNormalizationLayer(Name="BN1")
    >>> layer.name, layer.momentum
    ('BN1', 0.9)
    >>> batchNormalizationLayer("Name", "BN2", "TrainedMean", [[[1, 2, 3]]]).name
    'BN2'

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.batchnormalizationlayer.html
    """
    # MATLAB's default of VarianceDecay is 0.1; our default of variance_momentum is `momentum`.
    return made(BatchNormalizationLayer, pairs, properties, variance_momentum=0.9)
