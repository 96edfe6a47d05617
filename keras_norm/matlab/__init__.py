"""MATLAB's functions and property names, translated to Keras and keras_norm."""

from keras_norm.matlab.batch_normalization import batchNormalizationLayer
from keras_norm.matlab.factors import (
    getL2Factor,
    getLearnRateFactor,
    setL2Factor,
    setLearnRateFactor,
)
from keras_norm.matlab.group_normalization import groupNormalizationLayer
from keras_norm.matlab.instance_normalization import instanceNormalizationLayer
from keras_norm.matlab.layer_normalization import layerNormalizationLayer
from keras_norm.matlab.options import trainingOptions
from keras_norm.matlab.property_table import properties
from keras_norm.matlab.sheet import display, property_sheet
from keras_norm.matlab.training import trainnet
from keras_norm.matlab.weights import load_weights

__all__ = [
    "batchNormalizationLayer",
    "display",
    "getL2Factor",
    "getLearnRateFactor",
    "groupNormalizationLayer",
    "instanceNormalizationLayer",
    "layerNormalizationLayer",
    "load_weights",
    "properties",
    "property_sheet",
    "setL2Factor",
    "setLearnRateFactor",
    "trainingOptions",
    "trainnet",
]
