"""MATLAB's `groupNormalizationLayer`."""

import keras

from keras_norm import _name_value
from keras_norm.layers import GroupNormalization
from keras_norm.layers.group_normalization import ALL_CHANNELS, CHANNEL_WISE
from keras_norm.matlab.base import Properties, made
from keras_norm.matlab.property_table import HYPERPARAMETERS, SHARED, Property


def _num_groups(name, value):
    if isinstance(value, str) and value in (ALL_CHANNELS, CHANNEL_WISE):
        return value
    return _name_value.positive_integer(name, value, f", '{ALL_CHANNELS}' or '{CHANNEL_WISE}'")


_PROPERTIES = {
    "NumGroups": Property(
        "groups",
        _num_groups,
        lambda layer: CHANNEL_WISE if layer.groups == -1 else layer.groups,
        HYPERPARAMETERS,
    ),
    **SHARED,
}


@keras.saving.register_keras_serializable("keras_norm")
class GroupNormalizationLayer(Properties, GroupNormalization, properties=_PROPERTIES):
    """A `GroupNormalization` with the same arguments, and MATLAB's properties as attributes."""


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
    groups = _num_groups("numGroups", numGroups)
    why = "is its first argument: groupNormalizationLayer(4). Leave the name out."
    return made(GroupNormalizationLayer, pairs, properties, {"NumGroups": why}, groups=groups)
