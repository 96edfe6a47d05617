"""Trains three layers on padded series of different lengths, with and without masks.

    KERAS_BACKEND=jax python examples/padded_series.py [--small] [--out picture.png]

Scans of handwritten digits are read from left to right, a column of 8 pixels at each time step,
from the first column with ink to the last: a 1 is a short series, a 0 a long one. For a network
they are padded to one length. Each layer is trained twice on series padded to 8 steps: once with
the mask of `Masking`, once without, so that padding is counted. Then both networks are tested on
new series, padded to 8 steps and to more.

With masks, padding has no effect. Without, the moments of layer and group normalization depend on
the length, and the errors grow with the padding. Batch normalization uses moving statistics in
inference, so padding has no effect there.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_norm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PADDING = -1.0  # no pixel has this value
LENGTHS = [8, 16, 32, 64]
LAYERS = {
    "batch normalization": keras_norm.BatchNormalization,
    "layer normalization": keras_norm.LayerNormalization,
    "group normalization": lambda: keras_norm.GroupNormalization(groups=8),
}


def series():
    """Returns each scan as a series of columns, cut at both ends to its ink; and the digits."""
    images, digits = load_digits(return_X_y=True)
    found = []
    for image in images.reshape(-1, 8, 8).astype("float32") / 16:
        ink = np.flatnonzero(image.any(0))
        found.append(image.T[ink[0] : ink[-1] + 1])
    return found, digits


def padded(found, length):
    """Returns series as one array of shape (series, length, 8)."""
    x = np.full((len(found), length, 8), PADDING, "float32")
    for row, one in zip(x, found, strict=True):
        row[: len(one)] = one
    return x


def network(normalization, masked):
    """A dense layer for each step, normalized, then a recurrent one that skips the padding."""
    inputs = keras.Input((None, 8))
    x = layers.Masking(PADDING)(inputs)
    x = layers.Dense(64, use_bias=False)(x)
    # Keras passes the mask on automatically. To count the padding, a mask of ones replaces it,
    # and the recurrent layer gets the true mask as an argument.
    if masked:
        x = normalization()(x)
        real = None
    else:
        x = normalization()(x, mask=keras.ops.ones_like(x[:, :, 0], "bool"))
        real = keras.ops.any(inputs != PADDING, axis=-1)
    x = layers.ReLU()(x)
    x = layers.GRU(48)(x, mask=real)
    return keras.Model(inputs, layers.Dense(10)(x))


def run(epochs):
    """Returns the errors in percent of each layer, with mask and without, at each length."""
    found, digits = series()
    lengths = [len(one) for one in found]
    print(f"{len(found)} series of {min(lengths)} to {max(lengths)} steps of 8 pixels")
    train, test, y_train, y_test = train_test_split(
        found, digits, test_size=0.25, random_state=0, stratify=digits
    )
    errors = {}
    for name, normalization in LAYERS.items():
        for masked in (True, False):
            keras.utils.set_random_seed(0)
            model = network(normalization, masked)
            model.compile(
                keras.optimizers.Adam(3e-3),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
            model.fit(padded(train, LENGTHS[0]), y_train, batch_size=64, epochs=epochs, verbose=0)
            outputs = [model.predict(padded(test, n), verbose=0) for n in LENGTHS]
            errors[name, masked] = [100 * np.mean(y.argmax(-1) != y_test) for y in outputs]
            change = max(abs(y - outputs[0]).max() for y in outputs)
            print(
                f"{name}, {'mask   ' if masked else 'no mask'}: misread",
                ", ".join(f"{e:.1f}%" for e in errors[name, masked]),
                f"padded to {LENGTHS} steps; outputs change by up to {change:.1g}",
                flush=True,
            )
    return errors


def draw(errors, path):
    """Draws the errors against the padded length, a panel for each layer."""
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axes, name in zip(panels, LAYERS, strict=True):
        places = range(len(LENGTHS))
        axes.plot(places, errors[name, True], "o-", label="with the mask")
        axes.plot(places, errors[name, False], "x--", color="C3", label="padding counted in")
        axes.set_xticks(list(places), LENGTHS)
        axes.set_title(name)
        axes.set_xlabel("steps after padding (trained at 8)")
        axes.grid(alpha=0.3)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("series misread, of 450 (%)")
    panels[0].legend()
    figure.savefig(path, dpi=110)
    print(f"Picture: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="train for one epoch only")
    parser.add_argument("--out", default="padded_series.png", help="path of the picture")
    arguments = parser.parse_args()
    draw(run(epochs=1 if arguments.small else 20), arguments.out)


if __name__ == "__main__":
    main()
