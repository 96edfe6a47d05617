"""Compares batch, group and layer normalization with small batches.

    KERAS_BACKEND=jax python examples/small_batches.py
    KERAS_BACKEND=jax python examples/small_batches.py --small   # seconds: shows that it runs

After Wu and He, "Group normalization" (2018): the same small network learns to read scans of
handwritten digits (they come with scikit-learn) from batches of 2, 4, 8, 16 and 32 scans, with a
learning rate in proportion to the batch. Batch normalization is tested with its moving statistics,
and with those of all training scans. Prints a table of test error, the mean over several runs, and
draws it into `small_batches.png`.

Result (3 runs, 450 test scans, standard errors near 0.3 points): population statistics were never
worse than moving statistics. The difference was largest at batches of 2 (errors of 1.2% instead of
1.6%), where a moving average with momentum 0.9 covers about 20 scans. More passes changed nothing
here. Group and layer normalization stayed near 2% at all batch sizes, as they do not depend on the
batch (Wu and He). On these small scans batch normalization was better even at 2, unlike on
ImageNet.
"""

import argparse
import os
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
    "batch": keras_norm.BatchNormalization,
    "group": lambda: keras_norm.GroupNormalization(groups=8),
    "layer": lambda: keras_norm.GroupNormalization(groups="all-channels"),
}
# What batch normalization is tested with: 0 passes leave the moving statistics.
PASSES = {"batch, moving": 0, "batch, population": 1, "batch, 4 passes": 4}


def digits():
    """Returns 1,797 scans of 8 by 8 pixels with values from 0 to 1, split for training and test."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.25, random_state=0, stratify=labels
    )
    whole = len(x_train) // 32 * 32  # no smaller batch at the end
    return x_train[:whole], x_test, y_train[:whole], y_test


def network(normalization):
    """Four convolutions, each normalized, and a classifier."""
    blocks = []
    for filters, stride in ((16, 1), (16, 2), (32, 1), (32, 2)):
        convolution = keras.layers.Conv2D(
            filters, 3, strides=stride, padding="same", use_bias=False
        )
        blocks += [convolution, normalization(), keras.layers.ReLU()]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *blocks, *head])


def errors(name, batch_size, epochs, seed, data):
    """Trains a network; returns its test errors by what it is tested with."""
    x_train, x_test, y_train, y_test = data
    keras.utils.set_random_seed(seed)
    model = network(LAYERS[name])
    rate = 0.1 * batch_size / 32
    decay = keras.optimizers.schedules.CosineDecay(rate, epochs * len(x_train) // batch_size)
    model.compile(
        keras.optimizers.SGD(decay, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x_train, y_train, batch_size=batch_size, epochs=epochs, verbose=0)

    def error():
        return 1 - model.evaluate(x_test, y_test, batch_size=len(x_test), verbose=0)[1]

    if name != "batch":
        return {name: error()}
    found = {}
    for label, passes in PASSES.items():
        if passes:
            keras_norm.update_population_statistics(
                model, x_train, batch_size=batch_size, passes=passes, verbose=0
            )
        found[label] = error()
    return found


def draw(batch_sizes, table, path):
    """Draws test error over the batch size, one line for each method."""
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    styles = {"batch, moving": "o--", "batch, population": "o-", "group": "s-", "layer": "^-"}
    for label, style in styles.items():
        axes.plot(
            batch_sizes,
            100 * table[label],
            style,
            label=f"{label} normalization"
            if "," not in label
            else label.replace(",", " normalization,"),
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(batch_sizes, [str(size) for size in batch_sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("scans in a batch")
    axes.set_ylabel("digits misread, % of 450 new scans")
    axes.set_title("Normalization where batches are small")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training scans")
    parser.add_argument("--runs", type=int, default=5, help="number of runs to average")
    parser.add_argument("--output", type=Path, default=Path(), help="folder of the picture")
    parser.add_argument("--small", action="store_true", help="a quick run")
    arguments = parser.parse_args()
    batch_sizes = (16, 32) if arguments.small else (2, 4, 8, 16, 32)
    epochs, runs = (1, 1) if arguments.small else (arguments.epochs, arguments.runs)
    data = digits()
    results = {}
    for batch_size in batch_sizes:
        for name in LAYERS:
            for seed in range(runs):
                for label, error in errors(name, batch_size, epochs, seed, data).items():
                    results.setdefault(label, {}).setdefault(batch_size, []).append(error)
        print(f"batches of {batch_size}: done", flush=True)

    table = {}
    print(f"\n{'test error':20}" + "".join(f"{f'batch {size}':>16}" for size in batch_sizes))
    for label, by_size in results.items():
        values = np.array([by_size[size] for size in batch_sizes])
        table[label] = values.mean(1)
        spread = values.std(1, ddof=1) / np.sqrt(runs) if runs > 1 else 0 * table[label]
        cells = [
            f"{100 * m:.2f} +- {100 * s:.2f}" for m, s in zip(table[label], spread, strict=True)
        ]
        print(f"{label:20}" + "".join(f"{cell:>16}" for cell in cells))
    print(f"(percent, mean of {runs} runs and its standard error)")
    draw(batch_sizes, table, arguments.output / "small_batches.png")
    print(f"Picture: {arguments.output / 'small_batches.png'}")


if __name__ == "__main__":
    main()
