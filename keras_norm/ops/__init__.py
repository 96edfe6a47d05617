"""Pure functions on tensors, written in `keras.ops`: moments, their merge, standardization."""

from keras_norm.ops.accelerated import load
from keras_norm.ops.convert import convert
from keras_norm.ops.masks import mask_weights
from keras_norm.ops.moments import Moments, merge, moments
from keras_norm.ops.moving import moved
from keras_norm.ops.normalize import normalize
from keras_norm.ops.replicas import Replicas, merge_replicas
from keras_norm.ops.standardize import standardize

__all__ = [
    "Moments",
    "Replicas",
    "convert",
    "mask_weights",
    "merge",
    "merge_replicas",
    "moments",
    "moved",
    "normalize",
    "standardize",
]

load()
