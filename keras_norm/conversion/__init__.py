"""Conversion of Keras models, PyTorch modules and Flax modules; folding for production."""

from keras_norm.conversion.flax import from_flax
from keras_norm.conversion.folding import fold_batch_normalization, fold_normalization
from keras_norm.conversion.keras_models import from_keras, to_keras
from keras_norm.conversion.registry import register
from keras_norm.conversion.replacing import batch_to_group, replace_normalization
from keras_norm.conversion.torch import from_torch, to_torch

__all__ = [
    "batch_to_group",
    "fold_batch_normalization",
    "fold_normalization",
    "from_flax",
    "from_keras",
    "from_torch",
    "register",
    "replace_normalization",
    "to_keras",
    "to_torch",
]
