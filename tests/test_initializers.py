import dataclasses
import functools
import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_norm
from keras_norm import BatchNormalization, LayerNormalization, initializers
from tests.gradients import numpy


def gamma(initializer, channels=4, **kwargs):
    layer = BatchNormalization(gamma_initializer=initializer, **kwargs)
    layer.build((None, channels))
    return numpy(layer.gamma)


@pytest.mark.parametrize("name", ["narrow-normal", "narrow_normal"])
def test_narrow_normal_by_name(name):
    values = gamma(name, 20_000)
    # 20,000 draws: the mean is known to 0.0001, the deviation to 0.5%.
    assert abs(values.mean()) < 4e-4
    assert abs(values.std() / 0.01 - 1) < 0.02


def test_narrow_normal_object():
    config = initializers.NarrowNormal(seed=3).get_config()
    assert config == {"seed": 3}
    first, second = initializers.NarrowNormal(3), initializers.NarrowNormal.from_config(config)
    np.testing.assert_array_equal(numpy(first((5,))), numpy(second((5,))))
    serialized = keras.initializers.serialize(first)
    assert serialized["registered_name"] == "keras_norm>NarrowNormal"
    assert isinstance(keras.initializers.get(serialized), initializers.NarrowNormal)


def test_narrow_normal_refuses_other_seeds():
    with pytest.raises(ValueError, match="seed"):
        initializers.NarrowNormal(seed="3")


@pytest.mark.parametrize("name", ["ones", "zeros", "Ones", "random_normal", "he_normal"])
def test_names_of_keras(name):
    assert gamma(name).shape == (4,)


def test_objects_classes_and_dicts_of_keras():
    np.testing.assert_array_equal(gamma(keras.initializers.Constant(2.0)), [2] * 4)
    np.testing.assert_array_equal(gamma(keras.initializers.Ones), [1] * 4)
    config = keras.initializers.serialize(keras.initializers.Constant(3.0))
    np.testing.assert_array_equal(gamma(config), [3] * 4)


@pytest.mark.parametrize(
    "function",
    [
        lambda shape: np.arange(shape[0]),
        lambda shape, dtype: ops.arange(shape[0], dtype=dtype),
        lambda shape, dtype=None: ops.arange(shape[0], dtype=dtype),
        lambda shape, **kwargs: list(range(shape[0])),
        lambda shape: np.arange(shape[0]).reshape(1, 1, -1),
    ],
)
def test_functions_of_the_size(function):
    np.testing.assert_array_equal(gamma(function), [0, 1, 2, 3])


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3, 4],
        (1.0, 2.0, 3.0, 4.0),
        np.arange(1, 5, dtype="float16"),
        np.arange(1, 5).reshape(1, 1, 4),  # MATLAB's 1-by-1-by-C
        [[[1]], [[2]], [[3]], [[4]]],
    ],
    ids=["list", "tuple", "array", "1-by-1-by-C", "nested"],
)
def test_values(values):
    np.testing.assert_array_equal(gamma(values), [1, 2, 3, 4])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_in_a_tensor(dtype):
    np.testing.assert_array_equal(gamma(ops.cast([1, 2, 3, 4], dtype)), [1, 2, 3, 4])


def test_values_in_a_variable():
    np.testing.assert_array_equal(gamma(keras.Variable([1.0, 2.0, 3.0, 4.0])), [1, 2, 3, 4])
    with pytest.raises(ValueError, match="Received: 3 values, of shape"):
        gamma(lambda shape: keras.Variable([1.0, 2.0, 3.0]))


def test_values_over_several_axes():
    values = np.arange(6.0).reshape(2, 3)
    layer = LayerNormalization(axis=[1, 2], beta_initializer=values)
    layer.build((None, 2, 3))
    np.testing.assert_array_equal(numpy(layer.beta), values)


def test_configs_hold_plain_lists_and_compare_equal():
    layer = BatchNormalization(gamma_initializer=np.array([0.1, 0.2], "float32"))
    config = layer.get_config()
    assert json.loads(json.dumps(config)) == config
    value = config["gamma_initializer"]["config"]["value"]
    assert value == np.array([0.1, 0.2], "float32").tolist()
    assert BatchNormalization.from_config(config).get_config() == config
    layer.build((None, 2))
    assert layer.get_config() == config
    again = BatchNormalization.from_config(config)
    again.build((None, 2))
    np.testing.assert_array_equal(numpy(again.gamma), numpy(layer.gamma))


@keras.saving.register_keras_serializable("keras_norm_tests")
def registered(shape, dtype=None):
    return ops.full(shape, 0.25, dtype=dtype)


def test_registered_function_keeps_its_name(tmp_path):
    layer = BatchNormalization(gamma_initializer=registered)
    config = layer.get_config()
    assert config["gamma_initializer"]["config"] == "keras_norm_tests>registered"
    model = keras.Sequential([keras.Input((3,)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].gamma_initializer.function is registered
    assert loaded.layers[0].get_config()["gamma_initializer"] == config["gamma_initializer"]


@pytest.mark.parametrize("argument", ["gamma_initializer", "moving_mean_initializer"])
def test_nameless_function_is_replaced_by_its_values(tmp_path, argument):
    layer = BatchNormalization(**{argument: lambda shape: np.linspace(1, 2, shape[0])}, name="bn")
    with pytest.raises(ValueError, match=rf"`{argument}` of layer 'bn'.*register_keras_serial"):
        layer.get_config()
    model = keras.Sequential([keras.Input((3,)), layer])
    x = np.random.default_rng(0).standard_normal((4, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
    value = loaded.layers[0].get_config()[argument]["config"]["value"]
    assert value == [1.0, 1.5, 2.0]
    # A clone starts from the same values.
    clone = keras.models.clone_model(model)
    np.testing.assert_array_equal(numpy(clone(x)), numpy(model(x)))


@dataclasses.dataclass
class Ramp:
    """A function of the size that has no name, and cannot be a key of a dictionary."""

    last: float = 2.0

    def __call__(self, shape):
        return np.linspace(1, self.last, shape[0])


@pytest.mark.parametrize("function", [functools.partial(np.full, fill_value=2.0), Ramp()])
def test_functions_without_a_name(function):
    layer = BatchNormalization(gamma_initializer=function, name="bn")
    with pytest.raises(ValueError, match=r"`gamma_initializer` of layer 'bn'.*register_keras"):
        layer.get_config()
    layer.build((None, 3))
    clone = BatchNormalization.from_config(layer.get_config())
    clone.build((None, 3))
    np.testing.assert_array_equal(numpy(clone.gamma), numpy(layer.gamma))


def test_one_function_serves_layers_of_different_sizes():
    first = BatchNormalization(gamma_initializer=lambda shape: np.ones(shape))
    second = BatchNormalization(gamma_initializer=first.gamma_initializer)
    first.build((None, 2))
    second.build((None, 3))
    assert first.get_config()["gamma_initializer"]["config"]["value"] == [1.0, 1.0]
    assert second.get_config()["gamma_initializer"]["config"]["value"] == [1.0, 1.0, 1.0]


def test_public_name():
    assert keras_norm.initializers is initializers


def test_a_function_that_nothing_calls_is_saved_as_the_default():
    layer = BatchNormalization(scale=False, gamma_initializer=lambda shape: np.ones(shape))
    layer.build((None, 3))
    clone = BatchNormalization.from_config(layer.get_config())
    assert isinstance(clone.gamma_initializer, keras.initializers.Ones)
