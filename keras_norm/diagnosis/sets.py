"""The normalization layers, and the axes that their moments are taken over."""

from keras_norm import layers
from keras_norm.conversion.kinds import kind_of
from keras_norm.layers.axes_normalization import AxesNormalization


def family(layer):
    """Returns the class of keras_norm that a layer, ours or Keras's, is a kind of; or None."""
    kind = kind_of(layer)
    return None if kind is None else kind.layer


def is_batch(layer):
    """Returns whether a layer is a batch normalization."""
    return family(layer) is layers.BatchNormalization


def is_of_axes(layer):
    """Returns whether the user chooses the axes of a layer's sets: layer and RMS normalization."""
    cls = family(layer)
    return cls is not None and issubclass(cls, AxesNormalization)


def channel_axis(layer, rank):
    """Returns the channel axis of a layer, from the front: the last one that gamma spans."""
    return max(_axes(layer, rank))


def reduced_axes(layer, rank):
    """Returns the axes, from the front, that one set of a layer extends over."""
    if is_batch(layer):
        return set(range(rank)) - _axes(layer, rank)
    if not is_of_axes(layer):
        return set(range(1, rank))
    return set(layer._reduced(rank)) if isinstance(layer, AxesNormalization) else _axes(layer, rank)


def _axes(layer, rank):
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return {axis % rank for axis in axes}
