"""Shows the effect of several passes for a network with consecutive normalizations.

    KERAS_BACKEND=jax python examples/population_passes.py

A network with four batch normalization layers learns to read scans of handwritten digits (they come
with scikit-learn) from batches of four scans. Prints, with the moving statistics and after 1, 2 and
4 passes of `update_population_statistics`, the difference between the statistics of each layer and
the moments of its inputs in inference, and the test error.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_norm

BATCH_SIZE = 4


def network():
    """Four normalized layers and a classifier."""
    blocks = [
        layer
        for _ in range(4)
        for layer in (
            layers.Dense(64, use_bias=False),
            keras_norm.BatchNormalization(),
            layers.ReLU(),
        )
    ]
    return keras.Sequential([keras.Input((64,)), *blocks, layers.Dense(10)])


def inconsistencies(model, x):
    """Returns, for each layer, how far its variance is from that of its inputs in inference."""
    norms = [layer for layer in model.layers if isinstance(layer, keras_norm.BatchNormalization)]
    fed = keras.Model(model.inputs[0], [norm.input for norm in norms]).predict(x, verbose=0)
    return [
        np.linalg.norm(keras.ops.convert_to_numpy(norm.moving_variance) - variance)
        / np.linalg.norm(variance)
        for norm, variance in zip(norms, (v.astype("float64").var(0) for v in fed), strict=True)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training scans")
    epochs = parser.parse_args().epochs
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        images.astype("float32") / 16, labels, test_size=0.25, random_state=0, stratify=labels
    )
    x, y = x[: len(x) // BATCH_SIZE * BATCH_SIZE], y[: len(y) // BATCH_SIZE * BATCH_SIZE]
    keras.utils.set_random_seed(0)
    model = network()
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=2)
    print("\nstatistics   error of the variance, layer 1 to 4          test error")
    for passes in (0, 1, 2, 4):
        if passes:
            keras_norm.update_population_statistics(
                model, x, batch_size=BATCH_SIZE, passes=passes, verbose=0
            )
        found = "  ".join(f"{value:.1e}" for value in inconsistencies(model, x))
        error = 1 - model.evaluate(x_test, y_test, batch_size=len(x_test), verbose=0)[1]
        name = f"{passes} passes" if passes else "moving"
        print(f"{name:10}   {found}{error:22.1%}")


if __name__ == "__main__":
    main()
