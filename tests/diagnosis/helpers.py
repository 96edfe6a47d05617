"""Data, models and the kinds that are found in them."""

import keras
import numpy as np

from keras_norm import diagnose


def data(*shape, mean=0.0, seed=0):
    return (mean + np.random.default_rng(seed).standard_normal(shape)).astype("float32")


def make_model(layer, *more, shape=(3,)):
    return keras.Sequential([keras.Input(shape), layer, *more])


def findings(model, x, **arguments):
    return diagnose(model, x, verbose=0, **arguments).findings


def kinds(model, x, **arguments):
    return [finding.kind for finding in findings(model, x, **arguments)]
