"""Pure functions on tensors, written in `keras.ops`: moments, their merge, standardization."""

from keras_norm.ops.convert import convert
from keras_norm.ops.masks import mask_weights
from keras_norm.ops.moments import Moments, merge, moments
from keras_norm.ops.moving import moving_averages
from keras_norm.ops.normalize import normalize, normalize_plain
from keras_norm.ops.problem import Problem
from keras_norm.ops.renorm import Renorm, renorm_averages, renorm_corrections, standard_deviation
from keras_norm.ops.replicas import merge_replicas
from keras_norm.ops.standardize import standardize, standardize_plain

__all__ = [
    "Moments",
    "Problem",
    "Renorm",
    "convert",
    "mask_weights",
    "merge",
    "merge_replicas",
    "moments",
    "moving_averages",
    "normalize",
    "normalize_plain",
    "renorm_averages",
    "renorm_corrections",
    "standard_deviation",
    "standardize",
    "standardize_plain",
]
