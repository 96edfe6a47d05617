"""Tries an installed package: `nox -s build` runs it from an empty folder, without the sources."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_norm

assert sys.prefix in keras_norm.__file__, f"not the installed package: {keras_norm.__file__}"
assert os.environ["KERAS_BACKEND"] == keras.backend.backend()

model = keras.Sequential(
    [
        keras.Input((6, 6, 4)),
        keras_norm.BatchNormalization(gamma_lr_multiplier=2),
        keras_norm.LayerNormalization(),
        keras_norm.GroupNormalization(groups=2),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(1),
    ]
)
model.compile(keras_norm.optimizers.MultiplierOptimizer(keras.optimizers.SGD(0.01)), "mse")
x = np.random.default_rng(0).normal(size=(32, 6, 6, 4)).astype("float32")
history = model.fit(x, x.mean((1, 2, 3)), epochs=2, verbose=0).history["loss"]
assert np.isfinite(history).all()
keras_norm.update_population_statistics(model, x, verbose=0)
model.save("model.keras")
loaded = keras.saving.load_model("model.keras")
assert np.allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
print(f"keras_norm {keras_norm.__version__} works on {keras.backend.backend()}")
