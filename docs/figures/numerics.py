"""Measures the error of keras_norm's and Keras's layers against the mean of the data.

    KERAS_BACKEND=jax python docs/figures/numerics.py

Writes `docs/figures/numerics-jax.json`, and so on for each backend; `numerics_plot.py` draws them.
The error is the 2-norm of the difference to float64 NumPy, relative to the 2-norm of the result;
NaN becomes null.
"""

import json
import math
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_norm

SHAPE = (16, 28, 28, 64)
MEANS = [0, 1e1, 1e2, 1e3, 1e4, 1e5]
# The axes that the oracle takes moments over, then the arguments of keras_norm and Keras.
LAYERS = {
    "batch": (
        (0, 1, 2),
        keras_norm.BatchNormalization(),
        keras.layers.BatchNormalization(epsilon=1e-5),
    ),
    "layer": (
        (3,),
        keras_norm.LayerNormalization(reduction_axes=-1),
        keras.layers.LayerNormalization(epsilon=1e-5),
    ),
    "group": (
        (1, 2, 4),
        keras_norm.GroupNormalization(groups=8),
        keras.layers.GroupNormalization(groups=8, epsilon=1e-5),
    ),
}


def oracle(x, axes):
    """Returns float64 `x`, standardized over `axes`; five axes mean groups of 8 channels."""
    grouped = x.reshape(*x.shape[:-1], 8, -1) if max(axes) == 4 else x
    grouped = grouped.astype("float64")
    centred = grouped - grouped.mean(axes, keepdims=True)
    variance = (centred**2).mean(axes, keepdims=True)
    return (centred / np.sqrt(variance + 1e-5)).reshape(x.shape)


def error(layer, x, expected):
    """Returns the relative error of a layer in training; None if the output is not finite."""
    arguments = {"training": True} if "Batch" in type(layer).__name__ else {}
    result = keras.ops.convert_to_numpy(layer(x, **arguments)).astype("float64")
    found = np.linalg.norm(result - expected) / np.linalg.norm(expected)
    return float(found) if math.isfinite(found) else None


def main():
    """Measures, and writes the file."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=SHAPE)
    errors = {name: {"keras_norm": [], "keras": []} for name in LAYERS}
    for mean in MEANS:
        x = (mean + noise).astype("float32")
        for name, (axes, ours, keras_own) in LAYERS.items():
            expected = oracle(x, axes)
            errors[name]["keras_norm"].append(error(ours, x, expected))
            errors[name]["keras"].append(error(keras_own, x, expected))
    backend = keras.backend.backend()
    result = {
        "backend": backend,
        "keras": keras.__version__,
        "shape": SHAPE,
        "means": MEANS,
        "errors": errors,
    }
    path = Path(__file__).parent / f"numerics-{backend}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
