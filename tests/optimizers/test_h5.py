"""`.h5` files, whose optimizer Keras builds before the model has variables."""

import keras
import pytest

from keras_norm.optimizers import MultiplierOptimizer
from tests.optimizers import cases
from tests.optimizers.test_saving import fit


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_training_goes_on_with_patterns(kind, tmp_path):
    def compiled():
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(3, "tanh", name="a"), keras.layers.Dense(2, name="b")]
        if kind == "sequential":
            model = keras.Sequential([keras.Input((4,)), *layers])
        else:
            x = keras.Input((4,))
            model = keras.Model(x, layers[1](layers[0](x)))
        inner = keras.optimizers.Adam(0.01)
        optimizer = MultiplierOptimizer(inner, lr_multipliers={"(.*/)?b/kernel": 2.0})
        loss = keras.losses.MeanSquaredError()
        model.compile(optimizer, loss, jit_compile=False)
        return model

    through, model = compiled(), compiled()
    fit(through, 4)
    fit(model, 2)
    model.save(tmp_path / "model.h5")
    loaded = keras.saving.load_model(tmp_path / "model.h5")
    cases.assert_same(loaded.get_weights(), model.get_weights())
    fit(loaded, 2)
    cases.assert_close(loaded.get_weights(), through.get_weights())
