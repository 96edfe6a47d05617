"""MATLAB's spellings: its functions and property names, translated to Keras and keras_norm."""

from keras_norm.matlab.layers import (
    batchNormalizationLayer,
    groupNormalizationLayer,
    layerNormalizationLayer,
)
from keras_norm.matlab.property_table import properties
from keras_norm.matlab.sheet import display

__all__ = [
    "batchNormalizationLayer",
    "display",
    "groupNormalizationLayer",
    "layerNormalizationLayer",
    "properties",
]
