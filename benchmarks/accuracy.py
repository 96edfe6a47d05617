"""Measures the errors of outputs in training, on the benchmark's inputs.

    KERAS_BACKEND=torch python -m benchmarks.accuracy

Prints the largest error of an element against NumPy in float64, relative to the larger of the
element and 1, for keras_norm, Keras and the backend's own operation. The inputs are normal with
standard deviation 1 and several means.
"""

import importlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from benchmarks import rows

MEANS = (0.0, 1.0, 100.0, 1e5)


def members():
    """Returns the rows that are measured."""
    sections = (rows.ROWS, rows.LONG_ROWS, rows.RMS_ROWS, rows.OTHER_ROWS, rows.RENORM_ROWS)
    return [row for section in sections for row in section if row.dtype == "float32"]


def expected(x, kind, options):
    """Returns a row's output in float64, with gamma 1 and beta 0."""
    x = x.astype("float64")
    axis = options.get("axis", -1) % x.ndim
    groups = {"group": options.get("groups"), "layer_all": 1, "instance": -1}.get(kind)
    if kind == "rms":
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5)
    if kind in ("batch", "renorm"):
        shape, axes = x.shape, [a for a in range(x.ndim) if a != axis]
    elif kind == "layer":
        shape, axes = x.shape, [x.ndim - 1]
    else:
        groups = x.shape[axis] if groups == -1 else groups
        shape = (*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
        axes = [a for a in range(1, x.ndim + 1) if a != axis]
    x = x.reshape(shape)
    mean, variance = (f(x, axis=tuple(axes), keepdims=True) for f in (np.mean, np.var))
    deviation = np.sqrt(variance + 1e-5)
    standardized = (x - mean) / deviation
    if kind == "renorm":  # in the first step, where renorm_mean is 0 and renorm_stddev 1
        r = np.clip(deviation, rows.BOUNDS["rmin"], rows.BOUNDS["rmax"])
        return standardized * r + np.clip(mean, -rows.BOUNDS["dmax"], rows.BOUNDS["dmax"])
    return standardized


def errors(backend, mode, row, mean):
    """Returns the error of each contender."""
    x = np.random.default_rng(0).standard_normal(row.shape, "float32") + np.float32(mean)
    right = expected(x, *row.native)
    x = backend.tensor(x, "float32", mode)
    steps = {}
    for name in ("ours", "keras"):
        layer = getattr(row, name)(dtype="float32", epsilon=1e-5)
        layer.build(row.shape)
        steps[name] = backend.layer_step(layer, x, x, "training", mode)
    native = backend.native_step(*row.native, x, x, True, mode)
    if native is not None:
        steps["native"] = native
    found = {}
    for name, step in steps.items():
        y = keras.ops.convert_to_numpy(step()[0]).reshape(right.shape)
        found[name] = np.max(np.abs(y - right) / np.maximum(1, np.abs(right)))
    return found


def main():
    backend = importlib.import_module(f"benchmarks.on_{keras.backend.backend()}")
    for mode in backend.MODES:
        print(f"{keras.backend.backend()}, {mode}; {backend.VERSION}, keras {keras.__version__}")
        for row in members():
            for mean in MEANS:
                found = errors(backend, mode, row, mean)
                shown = "  ".join(f"{name} {error:.1e}" for name, error in found.items())
                print(f"  {row.name:30} mean {mean:<9g} {shown}", flush=True)


if __name__ == "__main__":
    main()
