"""Trains one small network with each normalization layer on scans of handwritten digits.

    KERAS_BACKEND=jax python examples/quickstart.py

The scans come with scikit-learn; nothing is downloaded. Prints accuracy and time, saves a trained
model, loads it and predicts with it, and draws the error rates into `quickstart.png`.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_norm

LAYERS = {
    "batch normalization": keras_norm.BatchNormalization,
    "layer normalization": keras_norm.LayerNormalization,
    "group normalization": lambda: keras_norm.GroupNormalization(groups=8),
    "instance normalization": keras_norm.InstanceNormalization,
    "RMS normalization": keras_norm.RMSNormalization,
    "no normalization": keras.layers.Identity,
}


def digits():
    """Returns 1,797 scans of 8 by 8 pixels with values from 0 to 1, split for training and test."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    return train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)


def network(normalization):
    """Two convolutions, each normalized, and a classifier."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, padding="same", use_bias=False),
            normalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, padding="same", use_bias=False),
            normalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


def train(normalization, data, epochs):
    """Returns the trained network, its history and the seconds that training took."""
    x_train, x_test, y_train, y_test = data
    keras.utils.set_random_seed(0)
    model = network(normalization)
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    history = model.fit(
        x_train, y_train, batch_size=64, epochs=epochs, validation_data=(x_test, y_test)
    )
    return model, history.history, time.perf_counter() - start


def draw(histories, path):
    """Draws the errors on scans that were not trained on, after each pass over the others."""
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    styles = dict(zip(LAYERS, ["o-", "s-", "^-", "v-", "D-", "x--"], strict=True))
    for name, history in histories.items():
        errors = 100 * (1 - np.array(history["val_accuracy"]))
        axes.plot(
            range(1, len(errors) + 1),
            errors,
            styles[name],
            label=f"{name} (last: {errors[-1]:.1f}%)",
            color="gray" if name.startswith("no") else None,
        )
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1%", "2%", "5%", "10%", "20%", "50%", "100%"])
    axes.minorticks_off()
    axes.set_ylim(top=100)
    axes.set_xlabel("passes over the training scans (epochs)")
    axes.set_ylabel("digits misread, of 450 new scans")
    axes.set_title("The same small network learns to read handwritten digits")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training scans")
    parser.add_argument("--output", type=Path, default=Path(), help="folder of picture and model")
    arguments = parser.parse_args()
    data = digits()
    histories, seconds = {}, {}
    for name, normalization in LAYERS.items():
        print(f"\nTraining with {name}, on {keras.backend.backend()}", flush=True)
        model, histories[name], seconds[name] = train(normalization, data, arguments.epochs)
        if name == "batch normalization":
            model.save(arguments.output / "quickstart.keras")

    print(f"\n{'':24}test accuracy   training time")
    for name, history in histories.items():
        print(f"{name:24}{history['val_accuracy'][-1]:13.1%}{seconds[name]:14.1f} s")

    _, x_test, _, y_test = data
    loaded = keras.saving.load_model(arguments.output / "quickstart.keras")
    predicted = loaded.predict(x_test[:10], verbose=0).argmax(-1)
    print("\nSaved the first model, loaded it, and classified ten scans:")
    print("  written:", *y_test[:10])
    print("  read:   ", *predicted)
    draw(histories, arguments.output / "quickstart.png")
    print(f"\nPicture: {arguments.output / 'quickstart.png'}")


if __name__ == "__main__":
    main()
