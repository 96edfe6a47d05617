"""Normalization layers for Keras 3 on TensorFlow, JAX and PyTorch."""

import contextlib
import importlib

from keras_norm import callbacks, conversion, initializers, layers, matlab, optimizers, wolfram
from keras_norm.conversion import fold_batch_normalization, fold_normalization, from_keras, to_keras
from keras_norm.diagnosis import diagnose
from keras_norm.layers import *  # noqa: F403 every layer is public
from keras_norm.layerwise import layerwise_lr_decay
from keras_norm.multipliers import exclude_norms_and_biases, set_multipliers
from keras_norm.population import merge_moving_statistics, update_population_statistics
from keras_norm.replicas import replica_group

# Registers the fast implementations; without that folder, the plain functions are used.
with contextlib.suppress(ModuleNotFoundError):
    importlib.import_module("keras_norm.kernels")

__version__ = "0.2.0"

__all__ = [
    *layers.__all__,
    "callbacks",
    "conversion",
    "diagnose",
    "exclude_norms_and_biases",
    "fold_batch_normalization",
    "fold_normalization",
    "from_keras",
    "initializers",
    "layerwise_lr_decay",
    "matlab",
    "merge_moving_statistics",
    "optimizers",
    "replica_group",
    "set_multipliers",
    "to_keras",
    "update_population_statistics",
    "wolfram",
]
