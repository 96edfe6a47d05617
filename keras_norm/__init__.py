"""Batch, layer and group normalization for Keras 3 on TensorFlow, JAX and PyTorch."""

from keras_norm.multipliers import set_multipliers

__version__ = "0.1.0"

__all__ = ["set_multipliers"]
