"""Batch, layer and group normalization for Keras 3 on TensorFlow, JAX and PyTorch."""

from keras_norm import callbacks, initializers
from keras_norm.layers import BatchNormalization, GroupNormalization, LayerNormalization
from keras_norm.multipliers import set_multipliers
from keras_norm.population import update_population_statistics

__version__ = "0.1.0"

__all__ = [
    "BatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "callbacks",
    "initializers",
    "set_multipliers",
    "update_population_statistics",
]
