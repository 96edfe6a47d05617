"""Files that version 0.1.0 wrote train on: weights, moments, step count and multipliers."""

import pathlib
import sys

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm import multipliers
from keras_norm.optimizers import MultiplierOptimizer
from tests.optimizers.test_files import fit

FILES = pathlib.Path(__file__).parent / "files_0.1.0"


def compiled_model():
    keras.utils.set_random_seed(0)
    norm = keras_norm.BatchNormalization(gamma_lr_multiplier=0.5, name="norm")
    dense = keras.layers.Dense(3, "tanh", name="a")
    model = keras.Sequential([keras.Input((4,)), dense, norm, keras.layers.Dense(2, name="b")])
    keras_norm.set_multipliers(dense, lr=0.1, l2=2)
    inner = keras.optimizers.Nadam(0.02, weight_decay=0.1)
    maps = {"lr_multipliers": {"(.*/)?b/.*": 3.0}, "l2_multipliers": {"(.*/)?b/bias": 0.0}}
    model.compile(
        MultiplierOptimizer(inner, l2=0.01, **maps),
        keras.losses.MeanSquaredError(),
        jit_compile=False,
    )
    return model


def write():
    """Writes a model after an epoch, and its weights after another.

    It ran once on each backend, on Keras 3.13 with `keras_norm` of version 0.1.0.
    """
    assert keras_norm.__version__ == "0.1.0"
    backend = keras.backend.backend()
    model = compiled_model()
    fit(model)
    model.save(FILES / f"{backend}.keras")
    model.save(FILES / f"{backend}.h5")
    model.save_weights(FILES / f"{backend}.weights.h5")
    fit(model)
    np.savez(FILES / f"{backend}.npz", *model.get_weights())


@pytest.mark.parametrize("ending", ["keras", "h5", "weights.h5"])
@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_training_goes_on(backend, ending):
    path = FILES / f"{backend}.{ending}"
    if ending == "weights.h5":
        model = compiled_model()
        model.optimizer.build(model.trainable_variables)
        model.load_weights(path)
    else:
        model = keras.models.load_model(path)
    fit(model)
    assert int(model.optimizer.iterations) == 8
    with np.load(FILES / f"{backend}.npz") as expected:
        for got, value in zip(model.get_weights(), expected.values(), strict=True):
            np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-6)


def test_multipliers_come_back():
    optimizer = keras.models.load_model(FILES / "torch.keras").optimizer
    count = range(len(optimizer._trainable_variables))
    found = {kind: [optimizer.multiplier(kind, i) for i in count] for kind in multipliers.KINDS}
    assert found == {
        multipliers.LR: [0.1, 0.1, 0.5, 1.0, 3.0, 3.0],
        multipliers.L2: [2.0, 2.0, 1.0, 1.0, 1.0, 0.0],
        multipliers.WEIGHT_DECAY: [1.0] * 6,
    }
    assert optimizer.pattern(multipliers.LR, 4) == "(.*/)?b/.*"


if __name__ == "__main__":
    sys.exit(write())
