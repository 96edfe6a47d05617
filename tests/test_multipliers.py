import doctest

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm import layerwise, multipliers


def lr_of(layer):
    return [multipliers.of(weight, multipliers.LR) for weight in layer.weights]


def test_a_variable_without_multipliers_has_1():
    variable = keras.Variable(1.0)
    assert all(multipliers.of(variable, kind) == 1.0 for kind in multipliers.KINDS)


def test_set_on_a_variable_a_layer_and_a_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    keras_norm.set_multipliers(model, lr=0.1, l2=2)
    keras_norm.set_multipliers(model.layers[1], lr=np.float32(3))
    keras_norm.set_multipliers(model.layers[1].bias, l2=0)
    assert lr_of(model) == [0.1, 0.1, 3.0, 3.0]
    assert [multipliers.of(weight, multipliers.L2) for weight in model.weights] == [
        2.0,
        2.0,
        2.0,
        0.0,
    ]


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("1", TypeError)],
)
@pytest.mark.parametrize("name", ["lr", "l2"])
def test_bad_multipliers(name, value, error):
    variable = keras.Variable(1.0)
    with pytest.raises(error, match=f"`{name}` must be a finite number >= 0. Received: {name}="):
        keras_norm.set_multipliers(variable, **{name: value})
    assert not hasattr(variable, "lr_multiplier")


def test_bad_places_for_multipliers():
    with pytest.raises(TypeError, match=r"must be a Keras variable or layer. Received: 'dense'"):
        keras_norm.set_multipliers("dense", lr=1)
    with pytest.raises(ValueError, match=r"'unbuilt' has no weights.*Build it first"):
        keras_norm.set_multipliers(keras.layers.Dense(1, name="unbuilt"), lr=1)


def test_layerwise_lr_decay():
    shared = keras.layers.Dense(4)
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4), keras.layers.ReLU(), shared]
    )
    x = keras.Input((4,))
    y = keras.layers.BatchNormalization()(shared(inner(x)))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dropout(0.1)(y)))
    keras_norm.set_multipliers(model, lr=7)
    keras_norm.layerwise_lr_decay(model, 0.5)
    assert lr_of(inner.layers[0]) == [0.125] * 2
    assert lr_of(shared) == [0.25] * 2
    assert lr_of(model.layers[-3]) == [0.5] * 4
    assert lr_of(model.layers[-1]) == [1.0] * 2


def test_layerwise_lr_decay_of_a_models_own_weights():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.head = keras.layers.Dense(1)
            self.positions = self.add_weight(shape=(3,), name="positions")

        def call(self, x):
            return self.head(self.dense(x + self.positions))

    model = Model()
    model(np.zeros((1, 3), "float32"))
    keras_norm.layerwise_lr_decay(model, 0.5)
    assert model.positions.lr_multiplier == 0.25
    assert lr_of(model.dense) == [0.5] * 2
    assert lr_of(model.head) == [1.0] * 2


def test_layerwise_lr_decay_by_0_trains_the_last_layer_only():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    keras_norm.layerwise_lr_decay(model, 0)
    assert lr_of(model) == [0.0, 0.0, 1.0, 1.0]


def test_bad_layerwise_lr_decay():
    model = keras.Sequential([keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="has no weights"):
        keras_norm.layerwise_lr_decay(model, 0.5)
    model.build((None, 2))
    with pytest.raises(ValueError, match="`decay` must be a finite number >= 0"):
        keras_norm.layerwise_lr_decay(model, -0.5)
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        keras_norm.layerwise_lr_decay(model.layers[0], 0.5)


def test_layerwise_lr_decay_by_blocks():
    names = ["stem", "block1_a", "block1_b", "block2_a", "head"]
    model = keras.Sequential([keras.Input((2,)), *(keras.layers.Dense(2, name=n) for n in names)])

    def rates(*args, **kwargs):
        keras_norm.layerwise_lr_decay(model, 0.5, *args, **kwargs)
        return [lr_of(layer)[0] for layer in model.layers]

    assert rates(r"block(\d)") == [0.125, 0.25, 0.25, 0.5, 1.0]
    assert rates("block", min_multiplier=0.3) == [0.3, 0.5, 0.5, 0.5, 1.0]
    assert rates(lambda layer: layer.name[-1] == "a" or None) == [0.125, 0.25, 0.5, 0.25, 1.0]
    model.layers[-1].trainable = False
    assert rates() == [0.125, 0.25, 0.5, 1.0, 1.0]
    with pytest.raises(
        ValueError, match=r"`blocks` must match the name of a layer.*stem, block1_a"
    ):
        rates("stage")
    with pytest.raises(TypeError, match="`blocks` must be a function"):
        rates(3)


class LlamaLayerNorm(keras.layers.Layer):
    """As in KerasHub: neither the class nor its parameter is called as in Keras."""

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=input_shape[-1:])

    def call(self, x):
        return x * self.scale


def test_exclude_norms_and_biases():
    layers = [
        keras.layers.SpectralNormalization(keras.layers.Dense(3)),
        keras.layers.LayerNormalization(),
        keras_norm.BatchNormalization(),
        LlamaLayerNorm(),
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    layers[1].trainable = False
    excluded = keras_norm.exclude_norms_and_biases(model)
    assert sorted(v.name for v in excluded) == ["beta", "beta", "bias", "gamma", "gamma", "scale"]
    assert all(v.weight_decay_multiplier == v.l2_multiplier == 0.0 for v in excluded)
    assert multipliers.of(layers[0].layer.kernel, multipliers.WEIGHT_DECAY) == 1.0


def test_a_number_too_large_names_the_argument():
    with pytest.raises(ValueError, match="`lr` must be a finite number >= 0"):
        keras_norm.set_multipliers(keras.Variable(1.0), lr=10**400)


def test_the_examples_run():
    for module in (multipliers, layerwise):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed
