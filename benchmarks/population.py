"""Time of `update_population_statistics` relative to `model.evaluate` on the same data.

One backend a run:

    KERAS_BACKEND=jax python benchmarks/population.py

Both run once before they are timed (this time, which includes compilation, is printed as "first"),
then alternately. The goal is a median ratio of at most 1.5. The third function, inference that also
computes one plain mean of each layer's input, is a lower bound for a pass.
"""

import argparse
import statistics
import time

import keras
import numpy as np
from keras import layers

import keras_norm


def convolutional():
    """Returns a small network for images, and its data."""
    blocks = [
        layer
        for filters in (32, 32, 64)
        for layer in (
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras_norm.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
        )
    ]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10, "softmax")]
    x = np.random.default_rng(0).standard_normal((1024, 32, 32, 3)).astype("float32")
    return keras.Sequential([keras.Input((32, 32, 3)), *blocks, *head]), x


def dense():
    """Returns a small network for features, and its data."""
    blocks = [
        layer
        for _ in range(4)
        for layer in (
            layers.Dense(256, use_bias=False),
            keras_norm.BatchNormalization(),
            layers.ReLU(),
        )
    ]
    x = np.random.default_rng(0).standard_normal((16384, 256)).astype("float32")
    return keras.Sequential([keras.Input((256,)), *blocks, layers.Dense(10, "softmax")]), x


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    print(
        f"Keras {keras.__version__}, {keras.backend.backend()}, batches of {arguments.batch_size}"
    )
    for make in (convolutional, dense):
        model, x = make()
        compare(make.__name__, model, x, arguments)


def compare(name, model, x, arguments):
    y = np.zeros(len(x), "int32")
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    options = {"batch_size": arguments.batch_size, "verbose": 0}
    seen = [layer.input for layer in model.layers if "normalization" in layer.name]
    means = [keras.ops.mean(v, axis=tuple(range(len(v.shape) - 1))) for v in seen]
    observing = keras.Model(model.inputs, [*model.outputs, *means])
    contenders = {
        "evaluate": lambda: model.evaluate(x, y, **options),
        "population": lambda: keras_norm.update_population_statistics(model, x, **options),
        "a mean": lambda: observing.predict(x, **options),
    }
    first = {key: seconds(contender) for key, contender in contenders.items()}
    times = {key: [] for key in contenders}
    for _ in range(arguments.rounds):
        for key, contender in contenders.items():
            times[key].append(seconds(contender))
    medians = {key: statistics.median(values) for key, values in times.items()}
    shown = ", ".join(f"{k} {1e3 * medians[k]:.0f} ms (first {first[k]:.1f} s)" for k in times)
    ratios = (f"{key} {medians[key] / medians['evaluate']:.2f}" for key in list(times)[1:])
    print(f"{name}: {shown}; relative to evaluate: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
