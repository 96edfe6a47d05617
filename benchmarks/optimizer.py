"""The cost of multipliers: a training step with 200 variables, under Adam and under the wrapper.

    KERAS_BACKEND=torch python benchmarks/optimizer.py [--steps 200]

Times one step of the same model under the bare inner optimizer and under `MultiplierOptimizer`:
without multipliers, with 10 different multipliers, with an L2 factor in addition, and with 10
schedules; and under the bare optimizer with Keras's own L2 regularizers. A time is the CPU time of
the process in all its threads. The steps are interleaved, in an order that is reversed each time,
so that other load slows all of them alike. The ratio is the median of the ratios of neighbouring
steps, with the quartiles in brackets. The goal is at most 1.05 without L2 and schedules, and with
L2 less than Keras's regularizers.
"""

import argparse
import time

import keras
import numpy as np

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer

LAYERS, WIDTH, BATCH = 100, 64, 64


def make_model(optimizer, multipliers=(0.1, 3.0), regularizer=None):
    regularizers = {"kernel_regularizer": regularizer, "bias_regularizer": regularizer}
    layers = [keras.layers.Dense(WIDTH, "tanh", **regularizers) for _ in range(LAYERS)]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers])
    for i, variable in enumerate(model.trainable_variables[::20]):
        keras_norm.set_multipliers(variable, lr=multipliers[i % len(multipliers)])
    model.compile(optimizer, "mse")
    return model


def seconds(model, x):
    """The CPU time of one step; `train_on_batch` waits for its loss."""
    start = time.process_time()
    model.train_on_batch(x, x)
    if keras.backend.backend() == "jax":
        keras.tree.map_structure(
            lambda value: value.block_until_ready(), [v.value for v in model.trainable_variables]
        )
    return time.process_time() - start


def main(steps):
    x = np.random.default_rng(0).normal(size=(BATCH, WIDTH)).astype("float32")
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([10], [0.0, 1.0])

    def wrapped(*multipliers, l2=0.0):
        return make_model(MultiplierOptimizer(keras.optimizers.Adam(1e-3), l2=l2), multipliers)

    models = {
        "bare": make_model(keras.optimizers.Adam(1e-3)),
        "Keras's L2": make_model(keras.optimizers.Adam(1e-3), (1.0,), keras.regularizers.L2(5e-5)),
        "no multipliers": wrapped(1.0),
        "multipliers": wrapped(0.1, 3.0),
        "and l2": wrapped(0.1, 3.0, l2=1e-4),
        "10 schedules": wrapped(schedule),
    }
    variables = len(models["bare"].trainable_variables)
    times = {name: [] for name in models}
    for step in range(steps + 5):
        for name in list(models)[:: 1 if step % 2 else -1]:
            taken = seconds(models[name], x)
            if step >= 5:  # the first ones trace and compile
                times[name].append(taken)
    print(f"{keras.backend.backend()}: {variables} variables, 10 with multipliers, {steps} steps")
    for name, taken in times.items():
        low, ratio, high = np.quantile(np.divide(taken, times["bare"]), (0.25, 0.5, 0.75))
        milliseconds = 1000 * np.median(taken)
        print(f"{name:14} {milliseconds:8.2f} ms   ratio {ratio:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    main(parser.parse_args().steps)
