"""Classes that users register for conversion."""

import doctest
import importlib

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.conversion import register
from tests.conversion import models
from tests.oracle import error


class Gemma(keras.layers.Layer):
    """RMS normalization with a scale around 0, as in Gemma."""

    def __init__(self, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="zeros")

    def call(self, x):
        square = keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True)
        return x * keras.ops.rsqrt(square + self.epsilon) * (1.0 + self.scale)


class Derived(Gemma):
    """What derives from a registered class is not registered."""


class Mine(keras_norm.LayerNormalization):
    """A class derived from one of ours."""


def to_rms(layer):
    return keras_norm.RMSNormalization(
        epsilon=layer.epsilon, gamma_offset=1.0, gamma_initializer="zeros", name=layer.name
    )


register(Gemma, to_rms)
register(Mine, lambda layer: keras.layers.LayerNormalization(epsilon=layer.epsilon))


def test_from_keras_translates_registered_classes():
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, Derived(name="derived")(Gemma(name="norm")(inputs)))
    model.get_layer("norm").scale.assign(np.arange(4.0))
    model.get_layer("norm").scale.trainable = False
    converted = keras_norm.from_keras(model)
    layer = converted.get_layer("norm")
    assert type(layer) is keras_norm.RMSNormalization
    assert not layer.gamma.trainable
    assert type(converted.get_layer("derived")) is Derived
    x = models.batch(2, 3, 4)
    assert error(models.outputs(converted, x), models.outputs(model, x)) < 1e-6
    # `to_keras` does not ask for classes that are none of ours.
    assert type(keras_norm.to_keras(model).get_layer("norm")) is Gemma


def test_to_keras_translates_registered_classes_of_ours():
    model = models.shake(keras.Sequential([keras.Input((4,)), Mine(name="norm")]))
    (layer,) = keras_norm.to_keras(model).layers
    assert type(layer) is keras.layers.LayerNormalization
    np.testing.assert_array_equal(layer.get_weights()[0], model.get_weights()[0])


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"`cls` must be a class. Received: <Gemma"):
        register(Gemma(), to_rms)
    with pytest.raises(TypeError, match=r"`translate` must be a function. Received: 3"):
        register(Derived, 3)
    for cls in (keras.layers.BatchNormalization, keras_norm.RMSNormalization):
        with pytest.raises(ValueError, match=r"`cls` must be a class that is not translated"):
            register(cls, to_rms)


def test_examples():
    module = importlib.import_module("keras_norm.conversion.registry")
    assert doctest.testmod(module).failed == 0
