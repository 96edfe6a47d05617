"""MATLAB's four functions that create a normalization layer."""

from keras_norm import _name_value, layers
from keras_norm.matlab import property_table
from keras_norm.matlab.layer_classes import (
    BatchNormalizationLayer,
    GroupNormalizationLayer,
    InstanceNormalizationLayer,
    LayerNormalizationLayer,
)

_REFUSED = {
    name: f"is read-only: it is always {value!r}. Leave it out."
    for name, value in property_table.READ_ONLY.items()
}


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
    return _made(BatchNormalizationLayer, pairs, properties, variance_momentum=0.9)


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
    return _made(LayerNormalizationLayer, pairs, properties)


def groupNormalizationLayer(numGroups, *pairs, **properties):
    """Returns a `keras_norm.GroupNormalization` with MATLAB's properties.

        output = Scale * (input - mean) / sqrt(variance + Epsilon) + Offset

    Mean and variance are those of each group of neighbouring channels of each sample. The channels
    are the last axis of the input.

    Args:
        numGroups: A positive integer that divides the number of channels; "all-channels" for one
            group; "channel-wise" for one group per channel.
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
    return _made(GroupNormalizationLayer, pairs, properties, groups=groups)


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
    return _made(InstanceNormalizationLayer, pairs, properties)


def _made(cls, pairs, keywords, **given):
    """Returns a layer of a class with MATLAB's properties, for pairs and keywords."""
    function = f"{cls.__name__[0].lower()}{cls.__name__[1:]}"
    table = cls.property_table
    refused = dict(_REFUSED)
    if "NumGroups" in table:
        refused["NumGroups"] = f"is its first argument: {function}(4). Leave the name out."
    names = [name for name in table if name not in refused]
    values = _name_value.collect(function, names, pairs, keywords, refused)
    arguments = given | property_table.arguments(function, table, values)
    if "name" not in arguments:  # Keras derives names from the class: here ours, without "Layer"
        arguments["name"] = getattr(layers, cls.__name__.removesuffix("Layer"))().name
    with _name_value.renamed({entry.argument: name for name, entry in table.items()}):
        return cls(**arguments)
