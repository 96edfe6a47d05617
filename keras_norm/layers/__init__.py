"""The layers that users put in models."""

from keras_norm.layers.batch_normalization import BatchNormalization
from keras_norm.layers.group_normalization import GroupNormalization
from keras_norm.layers.instance_normalization import InstanceNormalization
from keras_norm.layers.layer_normalization import LayerNormalization
from keras_norm.layers.rms_normalization import RMSNormalization

__all__ = [
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
]
