"""Train on two CPU devices with JAX: arrays are global, and so are the moments of a batch.

    KERAS_BACKEND=jax python examples/distributed/jax_data_parallel.py

On one machine with several GPUs or TPUs, remove `XLA_FLAGS` below. On several machines, start the
same script on each of them, with its own id. Each has the same data, and uses its part:

    KERAS_DISTRIBUTION_JOB_ADDRESSES=host0:1234 KERAS_DISTRIBUTION_NUM_PROCESSES=2 \
        KERAS_DISTRIBUTION_PROCESS_ID=0 \
        KERAS_BACKEND=jax python examples/distributed/jax_data_parallel.py
"""

import argparse
import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import keras
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_norm


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args().epochs
    if "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
        keras.distribution.initialize()
    # Before the model is created, so that its variables are on all devices.
    keras.distribution.set_distribution(keras.distribution.DataParallel())

    keras.utils.set_random_seed(0)
    digits = load_digits()
    x, x_test, y, y_test = train_test_split(
        digits.data.astype("float32"), digits.target, test_size=0.25, random_state=0
    )
    # Devices share a batch equally, the last one too: keep multiples of the batch size.
    x, y = x[: len(x) // 32 * 32], y[: len(y) // 32 * 32]
    x_test, y_test = x_test[: len(x_test) // 32 * 32], y_test[: len(y_test) // 32 * 32]
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, use_bias=False),
            keras_norm.BatchNormalization(synchronized=True),
            layers.ReLU(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    callback = keras_norm.callbacks.PopulationStatistics(x, verbose=0)
    model.fit(x, y, batch_size=32, epochs=epochs, callbacks=[callback], verbose=2)
    _, accuracy = model.evaluate(x_test, y_test, batch_size=32, verbose=0)
    devices = len(keras.distribution.list_devices())
    print(f"{devices} devices, test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
