"""Fine-tunes with a tenth of the learning rate for the backbone and twice the rate for its scales.

    KERAS_BACKEND=torch python examples/finetune_multipliers.py [--small] [--out picture.png]

A small network learns the handwritten digits 0 to 4, then, with a new head, the digits 5 to 9
from 100 samples. Two methods of fine-tuning are compared, over ten seeds: one learning rate for all
variables, and multipliers.

Result (JAX, CPU): the multipliers do not help here. They slow the backbone down, so that the
accuracy after the first epoch is 68.6 % instead of 80.3 %. After 20 epochs it is 94.2 % and 94.5 %,
a difference of -0.3 points with a standard error of 0.2. The backbone is small and the new digits
resemble the old ones, so training everything at the full rate does no harm.
"""

import argparse

import keras
import matplotlib
import numpy as np
from sklearn.datasets import load_digits

import keras_norm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RATE = 0.003
ONE_RATE, MULTIPLIERS = "one rate for all", "multipliers"


def digits(first, samples, seed):
    """Returns digits `first` to `first + 4`: `samples` of them to learn, the others to test."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.flatnonzero((first <= labels) & (labels < first + 5))
    np.random.default_rng(seed).shuffle(chosen)
    x = (images[chosen].reshape(-1, 8, 8, 1) / 16).astype("float32")
    y = labels[chosen] - first
    return (x[:samples], y[:samples]), (x[samples:], y[samples:])


def make_backbone(widths=(16, 32)):
    layers = [keras.Input((8, 8, 1))]
    for filters in widths:
        layers += [
            keras.layers.Conv2D(filters, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*layers, keras.layers.Flatten()], name="backbone")


def fit(backbone, optimizer, train, test, epochs, batch_size):
    """Trains the backbone with a new head; returns the test accuracy after each epoch."""
    model = keras.Sequential([backbone, keras.layers.Dense(5, "softmax", name="head")])
    model.build((None, 8, 8, 1))
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        *train, batch_size=batch_size, epochs=epochs, validation_data=test, verbose=0
    )
    return history.history["val_accuracy"]


def fine_tune(weights, multipliers, train, test, epochs, seed, show):
    keras.utils.set_random_seed(seed)  # the same new head and the same order of samples
    backbone = make_backbone()
    backbone.set_weights(weights)
    if multipliers:
        keras_norm.set_multipliers(backbone, lr=0.1)
        for layer in backbone.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                keras_norm.set_multipliers(layer.gamma, lr=2)
    optimizer = keras_norm.optimizers.MultiplierOptimizer(keras.optimizers.Adam(RATE))
    accuracies = fit(backbone, optimizer, train, test, epochs, batch_size=10)
    if show:
        optimizer.summary()
    return accuracies


def run(seeds, pretraining_epochs, epochs):
    """Returns the test accuracies of both methods, by seed and epoch."""
    curves = {ONE_RATE: [], MULTIPLIERS: []}
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        backbone = make_backbone()
        train, test = digits(0, 600, seed)
        before = fit(
            backbone, keras.optimizers.Adam(RATE), train, test, pretraining_epochs, batch_size=32
        )
        print(f"seed {seed}: digits 0 to 4 at {100 * before[-1]:.1f} %")
        train, test = digits(5, 100, seed)
        for name, results in curves.items():
            several = name == MULTIPLIERS
            show = several and seed == 0
            results.append(
                fine_tune(backbone.get_weights(), several, train, test, epochs, seed, show)
            )
    return {name: 100 * np.array(results) for name, results in curves.items()}


def report(curves):
    """Prints the accuracies of two methods, the first of which is the baseline."""
    for name, results in curves.items():
        for epoch in sorted({0, results.shape[1] // 4, results.shape[1] - 1}):
            at = results[:, epoch]
            print(f"{name:18} after epoch {epoch + 1:2}: {at.mean():5.1f} % (+- {at.std():.1f})")
    baseline, other = curves.values()
    gain = (other - baseline)[:, -1]
    verdict = "better" if gain.mean() > 0 else "no better"
    print(
        f"With {list(curves)[1]} it ends {verdict}: {gain.mean():+.2f} points on {len(gain)} seeds",
        f"(standard error {gain.std(ddof=1) / np.sqrt(len(gain)):.2f})" if len(gain) > 1 else "",
    )


def draw(curves, out, title, tested_on):
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (name, results), color in zip(curves.items(), ("tab:blue", "tab:orange"), strict=True):
        epochs = np.arange(1, results.shape[1] + 1)
        mean, deviation = results.mean(0), results.std(0)
        axes.plot(epochs, mean, color=color, label=name)
        axes.fill_between(epochs, mean - deviation, mean + deviation, color=color, alpha=0.2, lw=0)
    axes.set_xlabel("epoch of fine-tuning")
    axes.set_ylabel(f"test accuracy on {tested_on} (%)")
    axes.set_title(f"{title}: mean and deviation of {len(results)} seeds")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(out, dpi=120)
    print(f"Picture: {out}")


def main(run, description, picture, sizes, title, tested_on):
    """Compares by `run`, at the size that the command line says, and draws the picture.

    `sizes` are the numbers of seeds, of epochs of pretraining and of epochs of fine-tuning.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--small", action="store_true", help="one seed and few epochs")
    parser.add_argument("--out", default=picture, help="path of the picture")
    arguments = parser.parse_args()
    curves = run(*((1, 2, 3) if arguments.small else sizes))
    report(curves)
    draw(curves, arguments.out, title, tested_on)


if __name__ == "__main__":
    main(
        run,
        __doc__.splitlines()[0],
        "finetune_multipliers.png",
        sizes=(10, 15, 20),
        title="From digits 0-4 to 5-9",
        tested_on="digits 5 to 9",
    )
