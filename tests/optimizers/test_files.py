"""Files of each backend train on under each: weights, moments, step count and multipliers."""

import pathlib
import sys

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer
from tests.optimizers import cases

FILES = pathlib.Path(__file__).parent / "files"
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.02),
    "AdamW": lambda: keras.optimizers.AdamW(0.02, weight_decay=0.1),
    "Nadam": lambda: keras.optimizers.Nadam(0.02),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.02, momentum=0.5),
    "SGD": lambda: keras.optimizers.SGD(0.02, momentum=0.9),
}
X, Y = cases.arrays(1, [(32, 4), (32, 2)])


def fit(model):
    model.fit(X, Y, batch_size=8, epochs=1, shuffle=False, verbose=0)


def write():
    """Writes a model after an epoch, and its weights after another: run once on each backend."""
    backend = keras.backend.backend()
    for name, make in OPTIMIZERS.items():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(3, "tanh", name="a"), keras.layers.Dense(2, name="b")]
        model = keras.Sequential([keras.Input((4,)), *layers])
        steps = keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.5, 2.0])
        keras_norm.set_multipliers(layers[0], lr=steps)
        keras_norm.set_multipliers(layers[1].bias, lr=0.1, l2=0)
        model.compile(MultiplierOptimizer(make(), l2=0.01), "mse", jit_compile=False)
        fit(model)
        model.save(FILES / f"{backend}-{name}.keras")
        fit(model)
        state = [*model.get_weights(), *cases.values(model.optimizer.variables)]
        np.savez(FILES / f"{backend}-{name}.npz", *state)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_training_goes_on(backend, name):
    model = keras.models.load_model(FILES / f"{backend}-{name}.keras")
    assert int(model.optimizer.iterations) == 4
    fit(model)
    with np.load(FILES / f"{backend}-{name}.npz") as expected:
        got = [*model.get_weights(), *cases.values(model.optimizer.variables)]
        # Backends round alike, but not equally; moments are small differences.
        for a, b in zip(got, expected.values(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    sys.exit(write())
