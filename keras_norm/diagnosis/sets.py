"""The normalization layers, and the axes that their moments are taken over."""

import keras

from keras_norm import layers

BATCH = (layers.BatchNormalization, keras.layers.BatchNormalization)
_GROUP = (layers.GroupNormalization, keras.layers.GroupNormalization)
# The layers that usually take moments over the channels of a single step.
OF_STEPS = (
    layers.LayerNormalization,
    layers.RMSNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)
NORMALIZATIONS = (*BATCH, *_GROUP, *OF_STEPS)


def family(layer):
    """Returns the class of normalization that a layer's class is or derives from."""
    return next(cls for cls in type(layer).__mro__ if cls in NORMALIZATIONS)


def channel_axis(layer, rank):
    """Returns the channel axis of a layer, from the front: the last one that gamma spans."""
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return max(axis % rank for axis in axes)


def reduced_axes(layer, rank):
    """Returns the axes, from the front, that one set of a layer extends over."""
    if isinstance(layer, BATCH):
        return set(range(rank)) - {channel_axis(layer, rank)}
    if isinstance(layer, _GROUP):
        return set(range(1, rank))
    if isinstance(layer, layers.LayerNormalization | layers.RMSNormalization):
        return set(layer._reduced(rank))
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return {axis % rank for axis in axes}
