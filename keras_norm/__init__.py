"""Batch, layer and group normalization for Keras 3 on TensorFlow, JAX and PyTorch."""

from keras_norm import conversion, initializers
from keras_norm.conversion import fold_batch_normalization, from_keras, to_keras
from keras_norm.layers import BatchNormalization, GroupNormalization, LayerNormalization
from keras_norm.multipliers import set_multipliers

__version__ = "0.1.0"

__all__ = [
    "BatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "conversion",
    "fold_batch_normalization",
    "from_keras",
    "initializers",
    "set_multipliers",
    "to_keras",
]
