"""Breaks a network that reads digits in four ways, and lets `keras_norm.diagnose` find them.

    KERAS_BACKEND=jax python examples/diagnosis.py [--small] [--out picture.png]

Scans of handwritten digits are read from left to right, a column of 8 pixels at each time step, and
padded to 10 steps. The network is trained five times: without a fault, then with one fault at a
time. Each time the report is printed, and must contain the fault. Finally the network is trained
with all four faults, and the report is drawn.
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

PADDING = -1.0  # no pixel has this value
STEPS = 10

# A fault, the kind of finding that it is, and the arguments of `train` that make it.
FAULTS = {
    "moving statistics that are slower than the training": ("statistics", {"momentum": 0.999}),
    "batches of 2": ("batch", {"batch_size": 2}),
    "pixels that are divided by 255 twice": ("constant", {"scale": 1 / 255**2}),
    "a convolution that loses the mask": ("mask", {"convolution": True}),
}


def series():
    """Returns the scans as series of columns from 0 to 16, padded in the end, and the digits."""
    images, digits = load_digits(return_X_y=True)
    x = np.full((len(images), STEPS, 8), PADDING, "float32")
    for row, image in zip(x, images.reshape(-1, 8, 8), strict=True):
        ink = np.flatnonzero(image.any(0))
        columns = image.T[ink[0] : ink[-1] + 1]
        row[: len(columns)] = columns
    return x, digits


def network(momentum, convolution):
    """A layer for each step, normalized, a recurrent layer, and one more normalization."""
    first = layers.Conv1D(32, 3, padding="same", name="conv") if convolution else layers.Dense(32)
    return keras.Sequential(
        [
            keras.Input((STEPS, 8)),
            layers.Masking(PADDING),
            first,
            keras_norm.BatchNormalization(momentum=momentum, name="norm_of_steps"),
            layers.ReLU(),
            layers.GRU(32),
            keras_norm.BatchNormalization(momentum=momentum, name="norm_of_series"),
            layers.Dense(10),
        ]
    )


def train(epochs, momentum=0.9, batch_size=32, scale=1 / 16, convolution=False):
    """Returns the report of a trained network, and the percentage of digits that it misreads."""
    x, digits = series()
    x = np.where(x == PADDING, PADDING, scale * x).astype("float32")
    train_x, test_x, train_y, test_y = train_test_split(
        x, digits, test_size=0.25, random_state=0, stratify=digits
    )
    keras.utils.set_random_seed(0)
    model = network(momentum, convolution)
    model.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(train_x, train_y, batch_size=batch_size, epochs=epochs, verbose=0)
    predicted = model.predict(test_x, verbose=0).argmax(-1)
    report = keras_norm.diagnose(model, train_x, batch_size=batch_size, steps=40, verbose=0)
    return report, 100 * np.mean(predicted != test_y)


def show(name, report, error):
    print(f"\n{name}: misreads {error:.1f}%\n\n{report}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="train for two epochs only")
    parser.add_argument("--out", default="diagnosis.png", help="path of the picture")
    arguments = parser.parse_args()
    epochs = 2 if arguments.small else 10
    show("No fault", *train(epochs))
    for name, (kind, fault) in FAULTS.items():
        report, error = train(epochs, **fault)
        show(f"Fault: {name}", report, error)
        if kind not in {finding.kind for finding in report.findings}:
            raise SystemExit(f"The finding '{kind}' is missing.")
    print(f"\nAll {len(FAULTS)} faults were found.")
    report, error = train(
        epochs, **{k: v for _, fault in FAULTS.values() for k, v in fault.items()}
    )
    show("All faults at once", report, error)
    report.plot(arguments.out)
    print(f"\nPicture: {arguments.out}")


if __name__ == "__main__":
    main()
