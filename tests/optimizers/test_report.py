"""The names of groups of variables: one for each, and the same in a loaded model."""

import keras
import pytest

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer, report
from tests.optimizers import test_saving


def rates_before_and_after(model, tmp_path, **maps):
    model.compile(MultiplierOptimizer(keras.optimizers.SGD(0.5), **maps), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    return report.learning_rates(model.optimizer), report.learning_rates(loaded.optimizer)


def test_layers_of_one_name_are_numbered(tmp_path):
    model = test_saving.nested_model(names=("same", "same"))
    keras_norm.set_multipliers(model.layers[1], lr=0.5)
    keras_norm.set_multipliers(model.layers[2].weights[1], lr=3)
    before, after = rates_before_and_after(model, tmp_path)
    assert before == pytest.approx(
        {"same": 0.25, "same:2/kernel": 0.5, "same:2/bias": 1.5, "norm": 0.5, "head": 0.5}
    )
    assert after == before


def test_names_do_not_depend_on_the_name_of_the_model(tmp_path):
    layers = [keras.layers.Dense(3, name="backbone"), keras.layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((4,)), *layers], name="model")
    pattern = f"{layers[0].kernel.path.rpartition('/')[0]}/.*"
    before, after = rates_before_and_after(
        model, tmp_path, lr_multipliers={pattern: 0.5, ".*head/bias": 0.5}
    )
    assert before == pytest.approx({pattern: 0.25, ".*head/bias": 0.25, "head": 0.5})
    assert after == before


def test_one_layer_with_several_rates():
    layer = keras_norm.BatchNormalization(gamma_lr_multiplier=2, name="norm")
    model = keras.Sequential([keras.Input((4,)), layer])
    optimizer = MultiplierOptimizer(keras.optimizers.SGD(0.5))
    optimizer.build(model.trainable_variables)
    assert report.learning_rates(optimizer) == pytest.approx({"norm/gamma": 1.0, "norm/beta": 0.5})
