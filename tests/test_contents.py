"""The contents of a model, where Keras keeps more objects."""

import keras
import pytest

import keras_norm
from keras_norm._contents import contents, layers_of
from tests.conversion import models
from tests.oracle import error

layers = keras.layers


def stack():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, name="dense"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(3, name="last"),
        ]
    )


def popped():
    model = stack()
    model.add(layers.BatchNormalization(name="gone"))
    model.pop()
    return model


def added():
    model = keras.Sequential()
    for layer in stack().layers:
        model.add(type(layer).from_config(layer.get_config()))
    model.build((None, 4))
    return model


def built_twice():
    model = keras.Sequential(stack().layers)
    model.build((None, 4))
    model.build((None, 4))
    return model


def inside():
    inputs = keras.Input((4,))
    inner = popped()
    return keras.Model(inputs, layers.Dense(2)(inner(inputs)))


def head():
    model = popped()
    return keras.Model(model.inputs[0], layers.Dense(2, name="head")(model.layers[-2].output))


class Replaced(keras.Model):
    """A layer whose attribute was set twice, and one that was deleted."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization(name="gone")
        self.norm = layers.BatchNormalization(name="norm")
        self.other = layers.BatchNormalization(name="gone")
        del self.other

    def call(self, x, training=None):
        return self.norm(x, training=training)


def replaced():
    model = Replaced()
    model(models.batch(2, 4))
    return model


@pytest.mark.parametrize("make", [popped, added, built_twice, inside, head, replaced])
def test_graphs_and_layers_that_are_gone_do_not_count(make, capsys):
    model = models.shake(make())
    assert [x.name for x in layers_of(model) if "norm" in x.name or x.name == "gone"] == ["norm"]
    converted = keras_norm.from_keras(model)
    x = models.batch(6, 4)
    assert error(models.outputs(converted, x), models.outputs(model, x)) < 1e-6
    assert "gone" not in [layer.name for layer in converted._flatten_layers()]
    assert all(len(layer._inbound_nodes) <= 1 for layer in converted._flatten_layers())
    folded = keras_norm.fold_batch_normalization(model)
    assert (make is not replaced) == ("Folded 1 of 1" in capsys.readouterr().out)
    assert error(models.outputs(folded, x), models.outputs(model, x)) < 1e-5
    keras_norm.update_population_statistics(converted, x, verbose=0)  # warnings are errors


def test_numbers_of_calls_follow_what_is_left(tmp_path):
    inputs = keras.Input((4,))
    dense = layers.Dense(4)
    dense(dense(inputs))  # in no model
    model = keras.Model(inputs, layers.BatchNormalization()(dense(dense(inputs))))
    copy = keras_norm.from_keras(model)
    copy.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    part = keras.Model(copy.input, copy.layers[-1].output)
    x = models.batch(3, 4)
    for other in (copy, loaded, part):
        assert error(models.outputs(other, x), models.outputs(model, x)) < 1e-6


def test_a_popped_layer_that_cannot_be_converted_is_no_obstacle():
    class Derived(layers.BatchNormalization):
        pass

    model = stack()
    model.add(Derived())
    with pytest.raises(ValueError, match="derived"):
        keras_norm.from_keras(model)
    model.pop()
    keras_norm.from_keras(model)
    model = keras.Sequential([keras.Input((3, 4)), layers.LayerNormalization(), layers.Masking()])
    model.pop()
    (layer,) = keras_norm.from_keras(model).layers
    assert type(layer) is keras_norm.LayerNormalization


def test_copies_carry_one_graph():
    model = keras.Sequential([keras.Input((4,))])
    for _ in range(6):
        model.add(layers.Dense(4))
    model.add(layers.BatchNormalization())
    copy = keras_norm.from_keras(model)
    assert sum(isinstance(x, keras.Function) for x in copy._tracker.config["layers"][1]) == 1
    assert sum(isinstance(x, keras.Function) for x in contents(copy)) == 1


class Raw(layers.Layer):
    """A layer with a variable of its framework, not of Keras."""

    def __init__(self, make):
        super().__init__()
        self.norm = layers.BatchNormalization()
        self.raw = make()
        self.function = lambda x, raw=self.raw: x * raw

    def call(self, x):
        return self.function(self.norm(x))


def test_variables_of_the_framework_are_copied():
    if keras.backend.backend() == "jax":
        return  # its arrays never change
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        make, zero = lambda: tf.Variable(2.0), lambda raw: raw.assign(0.0)
    else:
        import torch

        def make():
            return torch.nn.Parameter(torch.tensor(2.0))

        def zero(raw):
            raw.data.zero_()

    model = keras.Sequential([keras.Input((4,)), Raw(make)])
    copy = keras_norm.from_keras(model)
    x = models.batch(2, 4)
    expected = models.outputs(model, x)
    zero(model.layers[0].raw)
    assert error(models.outputs(copy, x), expected) < 1e-6
    zero(copy.layers[0].raw)
    assert not models.outputs(copy, x).any()  # the function has the copy, too
