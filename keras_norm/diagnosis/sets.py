"""Which layers normalize, and which axes their moments are taken over."""

import keras

from keras_norm import layers
from keras_norm.conversion.arguments import axes_from_front
from keras_norm.conversion.kinds import KINDS, kind_of
from keras_norm.layers.axes_normalization import AxesNormalization

BATCH = (layers.BatchNormalization, keras.layers.BatchNormalization)


def _classes(kinds):
    return tuple(cls for kind in kinds for cls in (kind.layer, kind.keras) if cls is not None)


NORMALIZATIONS = _classes(KINDS)
# Those that usually take moments over the channels of a single step.
OF_STEPS = _classes(kind for kind in KINDS if issubclass(kind.layer, AxesNormalization))


def family(layer):
    """Returns our class of normalization for a layer, ours or Keras's."""
    return kind_of(layer).layer


def channel_axis(layer, rank):
    """Returns the channel axis of a layer, from the front: the last one that gamma spans."""
    return max(axes_from_front(layer.axis, rank))


def reduced_axes(layer, rank):
    """Returns the axes, from the front, that one set of a layer extends over."""
    return kind_of(layer).reduced_axes(layer, rank)
