"""Writes the files of `tests/layers/test_serialization.py` on the backend that is running.

KERAS_BACKEND=jax python -m tests.data.write

Run it on the oldest Keras: newer ones load its files, but not the other way round.
"""

from pathlib import Path

import keras
import numpy as np

from tests.layers.test_serialization import data, make_model

if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    model = make_model()
    model.compile("adam", "mse")
    x, y = data(8)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    target = Path(__file__).parent / keras.backend.backend()
    model.save(target.with_suffix(".keras"))
    np.savez(target.with_suffix(".npz"), x=x, y=model.predict(x, verbose=0))
