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
    """A class derived from a registered class is not registered."""


class Mine(keras_norm.LayerNormalization):
    """A class derived from a layer of keras_norm."""


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
    # `to_keras` ignores classes of other packages.
    assert type(keras_norm.to_keras(model).get_layer("norm")) is Gemma


def test_to_keras_translates_registered_classes_of_ours():
    model = models.shake(keras.Sequential([keras.Input((4,)), Mine(name="norm")]))
    (layer,) = keras_norm.to_keras(model).layers
    assert type(layer) is keras.layers.LayerNormalization
    np.testing.assert_array_equal(layer.get_weights()[0], model.get_weights()[0])


class Own(keras.layers.Layer):
    """RMS normalization with a weight of another name."""

    def build(self, input_shape):
        self.strength = self.add_weight(name="strength", shape=(input_shape[-1],))

    def call(self, x):
        square = keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True)
        return x * keras.ops.rsqrt(square + 1e-6) * self.strength


def test_weights_without_a_counterpart_need_values():
    model = keras.Sequential([keras.Input((4,)), Own(name="norm")])
    x = models.batch(2, 4)
    register(Own, lambda layer: keras_norm.RMSNormalization(name=layer.name))
    with pytest.warns(UserWarning, match=r"'norm' \(Own\).* size of gamma .*strength \(4,\)"):
        keras_norm.from_keras(model)

    def with_values(layer):
        return keras_norm.RMSNormalization(gamma_initializer=layer.strength, name=layer.name)

    def built(layer):
        new = keras_norm.RMSNormalization(name=layer.name)
        new.build((None, 4))
        new.gamma.assign(layer.strength)
        return new

    for translate in (with_values, built):  # warnings are errors
        register(Own, translate)
        converted = keras_norm.from_keras(model)
        assert error(models.outputs(converted, x), models.outputs(model, x)) < 1e-6


@pytest.mark.parametrize("wrong", [None, 3, "itself"])
def test_functions_that_return_no_new_layer(wrong):
    register(Own, lambda layer: layer if wrong == "itself" else wrong)
    model = keras.Sequential([keras.Input((4,)), Own(name="norm")])
    with pytest.raises(
        ValueError,
        match=r"'norm' \(Own\) cannot be converted.*registered for Own must return a new",
    ):
        keras_norm.from_keras(model)


def test_errors_of_functions_name_the_layer():
    def translate(layer):
        raise NotImplementedError("no groups yet")

    register(Own, translate)
    model = keras.Sequential([keras.Input((4,)), Own(name="norm")])
    with pytest.raises(ValueError, match=r"'norm' \(Own\) cannot be converted. no groups yet"):
        keras_norm.from_keras(model)


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"`cls` must be a class. Received: <Gemma"):
        register(Gemma(), to_rms)
    with pytest.raises(TypeError, match=r"`translate` must be a function. Received: 3"):
        register(Derived, 3)
    for cls in (keras.layers.BatchNormalization, keras_norm.RMSNormalization):
        with pytest.raises(ValueError, match=r"`cls` must be a class that is not translated"):
            register(cls, to_rms)


@pytest.mark.parametrize(("package", "name"), [("torch.nn", "LayerNorm"), ("flax.nnx", "RMSNorm")])
def test_classes_of_other_packages_in_the_table_are_refused(package, name):
    module = pytest.importorskip(package)
    with pytest.raises(ValueError, match=r"`cls` must be a class that is not translated"):
        register(getattr(module, name), to_rms)


def test_examples():
    module = importlib.import_module("keras_norm.conversion.registry")
    assert doctest.testmod(module).failed == 0
