"""The shared arguments are defined once, and appear in `help`, signatures and type checkers."""

import inspect
import re

import keras
import pytest

import keras_norm
from keras_norm.layers.arguments import SharedArguments
from keras_norm.layers.normalization import Normalization
from tests.kinds import LAYERS

BASE = inspect.signature(Normalization).parameters


def described(layer):
    """Returns the names in the docstring's list of arguments, in order."""
    section = re.search(r"Args:\n(.*?)\n\n", inspect.getdoc(layer), re.DOTALL)[1]
    return re.findall(r"^ {4}\**(\w+): ", section, re.MULTILINE)


@pytest.mark.parametrize("layer", LAYERS.values())
def test_signature_and_docstring_have_every_argument(layer):
    parameters = inspect.signature(layer).parameters
    assert set(BASE) <= set(parameters)
    assert described(layer) == list(parameters)
    assert "**shared" not in layer.__doc__


@pytest.mark.parametrize("layer", LAYERS.values())
def test_defaults_are_what_a_layer_without_arguments_has(layer):
    config = layer().get_config()
    for name, parameter in inspect.signature(layer).parameters.items():
        if name == "kwargs":
            continue
        value = parameter.default
        if name.endswith("initializer"):
            value = keras.initializers.serialize(keras.initializers.get(value))
        assert config[name] == value, name


def test_type_checkers_see_every_argument():
    """They read the `TypedDict`: it has what the base takes besides `axis` and `epsilon`."""
    own = set(BASE) - {"axis", "epsilon", "kwargs"}
    of_keras = {"name", "dtype", "trainable", "activity_regularizer", "autocast"}
    inputs = {"input_shape", "input_dim"}
    assert set(SharedArguments.__annotations__) == own | of_keras | inputs


@pytest.mark.parametrize("layer", LAYERS.values())
def test_arguments_by_position_are_keras_s(layer):
    theirs = getattr(keras.layers, layer.__name__, None)
    if theirs is None:
        pytest.skip("not in Keras")
    names = list(inspect.signature(theirs).parameters)[:7]
    expected = [name for name in names if name != "kwargs"]
    assert list(inspect.signature(layer).parameters)[: len(expected)] == expected


def test_arguments_can_be_given_by_position():
    layer = keras_norm.BatchNormalization(1, 0.8, 1e-3, False, True, "ones")
    assert (layer.axis, layer.momentum, layer.epsilon) == (1, 0.8, 1e-3)
    assert (layer.center, layer.scale) == (False, True)
    assert isinstance(layer.beta_initializer, keras.initializers.Ones)
    with pytest.raises(TypeError, match="multiple values for argument 'axis'"):
        keras_norm.LayerNormalization(1, axis=1)
    with pytest.raises(ValueError, match="gama_initializer"):
        keras_norm.RMSNormalization(gama_initializer="ones")
