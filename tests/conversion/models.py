"""Models with normalization in every possible place, and checks of copies."""

import keras
import numpy as np
import pytest

from tests.gradients import numpy

layers = keras.layers


def shake(model, seed=0):
    """Gives every weight a value that no initializer gives; returns the model."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "bias", "moving_mean"):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


def batch(*shape, seed=1):
    """Returns an array of normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def functional():
    """A branch and a layer that is called twice."""
    inputs = keras.Input((6, 6, 4))
    shared = layers.BatchNormalization(name="shared")
    x = shared(layers.Conv2D(4, 3, padding="same")(inputs))
    y = shared(layers.Conv2D(4, 1)(inputs))
    x = layers.GroupNormalization(2, name="groups")(layers.Add()([x, y]))
    x = layers.LayerNormalization(name="channels")(x)
    return keras.Model(inputs, [x, y], name="functional")


def sequential():
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(5, 3),
            layers.BatchNormalization(momentum=0.8, epsilon=1e-2, scale=False, name="norm"),
            layers.LayerNormalization(axis=[1, 2, 3], center=False),
        ]
    )


def nested():
    """A model in a model, called twice, and the output of one of its layers on its own."""
    inner = sequential()
    inputs = keras.Input((6, 6, 4))
    x = layers.BatchNormalization(name="first")(inputs)
    outputs = layers.Add()([inner(x), inner(inputs)])
    return keras.Model(inputs, [outputs, inner.layers[1](inner.layers[0](x))], name="nested")


class Block(layers.Layer):
    """Layers in an attribute, in containers, and in a function."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization(name="norm")
        self.steps = [layers.Dense(4, name="dense"), {"last": layers.LayerNormalization(name="l")}]
        hidden = layers.BatchNormalization(name="hidden")
        self.hidden = hidden
        self.function = lambda x, training: hidden(x, training=training)

    def build(self, shape):
        for layer in (self.norm, self.steps[0], self.steps[1]["last"], self.hidden):
            layer.build(shape)

    def call(self, x, training=None):
        x = self.steps[0](self.norm(x, training=training))
        return self.function(self.steps[1]["last"](x), training)


class Subclassed(keras.Model):
    """No graph, a custom layer, and its own training step."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.block = Block(name="block")
        self.steps_taken = 0

    def call(self, x, training=None):
        return self.block(x, training=training)

    def train_step(self, *args):
        self.steps_taken += 1
        return super().train_step(*args)


def subclassed():
    model = Subclassed()
    model(batch(2, 6, 6, 4))
    return model


def wrapped():
    """Sequences: a wrapper, a wrapper of a model, a cell in a recurrent layer in a wrapper."""
    inputs = keras.Input((6, 6, 4))
    x = layers.TimeDistributed(layers.BatchNormalization(name="norm"))(inputs)
    inner = keras.Sequential([keras.Input((6, 4)), layers.LayerNormalization(), layers.Dense(3)])
    x = layers.TimeDistributed(inner)(x)
    x = layers.Reshape((6, 18))(x)
    x = layers.Bidirectional(layers.RNN(NormalizedCell(3), return_sequences=True))(x)
    return keras.Model(inputs, x, name="wrapped")


@keras.saving.register_keras_serializable("keras_norm_tests")
class NormalizedCell(layers.Layer):
    """A recurrent cell around a layer normalization."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.dense = layers.Dense(units, name="dense")
        self.norm = layers.LayerNormalization(name="norm")

    def build(self, shape):
        self.dense.build((shape[0], shape[-1] + self.units))
        self.norm.build((shape[0], self.units))

    def call(self, x, states, training=None):
        y = self.norm(self.dense(keras.ops.concatenate([x, states[0]], axis=-1)))
        return y, [y]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


MODELS = [functional, sequential, nested, subclassed, wrapped]


def outputs(model, x, training=False):
    """Returns a model's outputs, joined into one array."""
    found = keras.tree.flatten(model(x, training=training))
    return np.concatenate([numpy(y).ravel() for y in found])


def weights(model):
    return [numpy(variable) for variable in model.weights]


def described(model):
    """Returns what a copy must keep: layers, weights, flags and policies, by name."""
    layers_found = [
        (layer.name, layer.trainable, layer.dtype_policy.name) for layer in model._flatten_layers()
    ]
    return layers_found, [(v.path, tuple(v.shape), v.trainable) for v in model.weights]


def kinds(model):
    """Returns the classes of a model's normalization layers."""
    return {type(x) for x in model._flatten_layers() if type(x).__name__.endswith("malization")}


def override(layer):
    layer.call = lambda inputs: inputs


def add_hook(layer):
    layer.register_forward_hook(lambda module, inputs, outputs: outputs)


def add_hook_before(layer):
    layer.register_forward_pre_hook(lambda module, inputs: inputs)


# Ways to make a layer do more than its class does, and the words of the messages.
CHANGES = [pytest.param(override, "overrides `call`", id="call")]
if keras.backend.backend() == "torch":
    CHANGES += [
        pytest.param(add, "has forward hooks", id=add.__name__)
        for add in (add_hook, add_hook_before)
    ]
