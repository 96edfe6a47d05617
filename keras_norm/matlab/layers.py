"""MATLAB's three functions that make a normalization layer."""

from keras_norm import _name_value
from keras_norm.layers import BatchNormalization, GroupNormalization
from keras_norm.matlab import property_table
from keras_norm.matlab.operation_dimension import LayerNormalizationLayer


def batchNormalizationLayer(*pairs, **properties):
    """Returns a `keras_norm.BatchNormalization`, made from MATLAB's properties.

    In training with the mean and variance of each channel over the batch and all positions, in
    inference with `TrainedMean` and `TrainedVariance`:

        output = Scale * (input - mean) / sqrt(variance + Epsilon) + Offset
        TrainedMean = MeanDecay * mean + (1 - MeanDecay) * TrainedMean
        TrainedVariance = VarianceDecay * variance + (1 - VarianceDecay) * TrainedVariance

    The channels are the last axis of the input, as in MATLAB, whose batch axis comes after them
    and not first.

    Args:
        *pairs: Properties as names and values: `"Epsilon", 1e-4, "Name", "BN1"`.
        **properties: Properties as keywords: `Epsilon=1e-4, Name="BN1"`.
            TrainedMean, TrainedVariance: The moving statistics that the layer starts from, one
            value for each channel. Default: 0 and 1.
            Epsilon: Number > 0, added to the variance. Default: 1e-5.
            NumChannels: "auto", or the number of channels, to be checked.
            ScaleInitializer, OffsetInitializer: "ones", "zeros", "narrow-normal", or a function
            of the size. Defaults: "ones" and "zeros".
            Scale, Offset: The values to start from, which win over the initializers. Vectors, or
            1-by-1-by-C and the like.
            MeanDecay, VarianceDecay: Numbers in [0, 1]. Default: 0.1 each. (Keras's momentum is
            1 minus this.)
            ScaleLearnRateFactor, OffsetLearnRateFactor, ScaleL2Factor, OffsetL2Factor: Numbers
            >= 0 that `trainnet` multiplies the global rate or factor by. Default: 1 each.
            Name: String. Default: a name that Keras chooses.

    Returns:
        A `keras_norm.BatchNormalization`.

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
    return BatchNormalization(
        # Without VarianceDecay, MATLAB's is 0.1, our variance_momentum the other momentum.
        **{
            "variance_momentum": 0.9,
            **_arguments("batchNormalizationLayer", property_table.BATCH, pairs, properties),
        }
    )


def layerNormalizationLayer(*pairs, **properties):
    """Returns a `keras_norm.LayerNormalization`, made from MATLAB's properties.

        output = Scale * (input - mean) / sqrt(variance + Epsilon) + Offset

    `OperationDimension` says what mean and variance of a sample are taken over; Scale and Offset
    have an entry for each channel. The channels are the last axis of the input. Keras does not
    tell time from space, so every axis between the first and the last counts as spatial, but that
    "auto" takes an input of rank 3 for a sequence or a 1-D image, which MATLAB treats alike.

    | OperationDimension | moments over |
    | --- | --- |
    | "auto" | the channels, if the input's rank is 2 or 3, or else all but the batch |
    | "channel-only" | the channels |
    | "spatial-channel" | all axes but the batch |
    | "batch-excluded" | all axes but the batch: time steps mix; MATLAB's default until R2022b |

    Args:
        *pairs: Properties as names and values: `"Epsilon", 1e-4, "Name", "LN1"`.
        **properties: Properties as keywords: `Epsilon=1e-4, Name="LN1"`. `OperationDimension`
            as above, default "auto"; the others are those of `batchNormalizationLayer`, without
            TrainedMean, TrainedVariance, MeanDecay and VarianceDecay.

    Returns:
        A `keras_norm.LayerNormalization`.

    Raises:
        TypeError: If a value is of a wrong type.
        ValueError: If a property is unknown, twice given or without a value, or a value is out
            of range.

    Example:
    >>> import keras, numpy as np
    >>> from keras_norm.matlab import layerNormalizationLayer
    >>> layer = layerNormalizationLayer(Name="LN1", Epsilon=1e-12)
    >>> y = layer(np.array([[[1.0, 3.0], [5.0, 7.0]]]))  # one sample, two steps, two channels
    >>> keras.ops.convert_to_numpy(y).tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.layernormalizationlayer.html
    """
    return LayerNormalizationLayer(
        **_arguments("layerNormalizationLayer", property_table.LAYER, pairs, properties)
    )


def groupNormalizationLayer(numGroups, *pairs, **properties):
    """Returns a `keras_norm.GroupNormalization`, made from MATLAB's properties.

        output = Scale * (input - mean) / sqrt(variance + Epsilon) + Offset

    with the mean and variance of each group of neighbouring channels of each sample. The channels
    are the last axis of the input.

    Args:
        numGroups: A positive integer that divides the number of channels; "all-channels" for one
            group; "channel-wise" for a group a channel.
        *pairs: Properties as names and values: `"Epsilon", 1e-4, "Name", "GN1"`.
        **properties: Properties as keywords: `Epsilon=1e-4, Name="GN1"`. They are those of
            `batchNormalizationLayer`, without TrainedMean, TrainedVariance, MeanDecay and
            VarianceDecay.

    Returns:
        A `keras_norm.GroupNormalization`.

    Raises:
        TypeError: If a value is of a wrong type.
        ValueError: If a property is unknown, twice given or without a value, or a value is out
            of range.

    Example:
    >>> from keras_norm.matlab import groupNormalizationLayer
    >>> groupNormalizationLayer("channel-wise", "Name", "GN1").groups
    'channel-wise'

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.groupnormalizationlayer.html
    """
    groups = property_table.GROUP["NumGroups"].convert("numGroups", numGroups)
    table = {name: entry for name, entry in property_table.GROUP.items() if name != "NumGroups"}
    return GroupNormalization(
        groups, **_arguments("groupNormalizationLayer", table, pairs, properties)
    )


def _arguments(function, table, pairs, keywords):
    names = [*table, *property_table.READ_ONLY]
    values = _name_value.collect(function, names, pairs, keywords)
    for name in property_table.READ_ONLY:
        if name in values:
            raise ValueError(
                f"The property '{name}' of {function} is read-only: it is always "
                f"{property_table.READ_ONLY[name]!r}. Leave it out."
            )
    return property_table.arguments(function, table, values)
