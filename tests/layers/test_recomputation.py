"""`keras.RematScope` around a layer: the gradients are those without it."""

import keras
import numpy as np
import pytest

from tests.kinds import makers

X = np.random.default_rng(0).standard_normal((8, 3, 4)).astype("float32")
LAYERS = makers()


def weights_after_a_step(kind, mode, jit_compile):
    keras.utils.set_random_seed(0)
    with keras.RematScope(mode):
        layer = LAYERS[kind]()
    # Keras cannot recompute a Dense of a compiled step on TensorFlow: it is outside of the scope.
    model = keras.Sequential([keras.Input((3, 4)), keras.layers.Dense(4), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    model.fit(X, X**2, batch_size=8, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "jit_compile", [False] if keras.backend.backend() == "torch" else [False, True]
)
def test_a_step_is_the_same(kind, jit_compile):
    recomputed = weights_after_a_step(kind, "full", jit_compile)
    for a, b in zip(recomputed, weights_after_a_step(kind, None, jit_compile), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
