"""Measures one row, in ms."""

import importlib
import random
import statistics
import time

import keras
import numpy as np

import keras_norm
from benchmarks import rows

# A training step reads the input for the moments and again for the output, which it writes; it
# reads gradient and input for two sums and again for the result, which it writes.
TRAINING_PASSES = 8
# With frozen statistics it reads the input for the output; then gradient and input for the sums
# of gamma and beta, and the gradient again for the result.
FROZEN_PASSES = 6


def interleaved(functions, finish, rounds):
    """Returns the median time of each function in ms."""
    times = {name: [] for name in functions}
    for _ in range(3):
        for function in functions.values():
            finish(function())
    names, order = list(functions), random.Random(0)
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            start = time.perf_counter()
            finish(functions[name]())
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def measure(backend, row, mode, step, rounds):
    """Returns one line of the table, as a dictionary."""
    x, gradient = (
        backend.tensor(
            np.random.default_rng(seed).standard_normal(row.shape, "float32"), row.dtype, mode
        )
        for seed in (0, 1)
    )
    policy = row.dtype if row.dtype == "float32" else f"mixed_{row.dtype}"
    # One sample in four is padding from the middle on.
    mask = np.ones(row.shape[:2], "bool")
    mask[::4, row.shape[1] // 2 :] = False
    mask = backend.tensor(mask, "bool", mode)
    functions = {}
    for name, make, is_masked in (
        ("ours", row.ours, row.mask),
        ("keras", row.keras, row.keras_masks),
        ("empty", rows.Empty, row.mask),
        *([("unmasked", row.ours, False)] if row.mask else []),
    ):
        layer = make(dtype=policy)
        layer.build(row.shape)
        options = {"compiled": True} if row.compiled else {}
        masked = mask if is_masked else None
        functions[name] = backend.layer_step(layer, x, gradient, step, mode, masked, **options)
    if row.native is not None and step != "frozen" and not row.mask:
        native = backend.native_step(*row.native, x, gradient, step == "training", mode)
        if native is not None:
            functions["native"] = native
    if step == "frozen":
        layer = rows.ScaleAndShift(row.ours().axis, policy)
        layer.build(row.shape)
        functions["scale and shift"] = backend.layer_step(layer, x, gradient, step, mode)
    functions["copy"] = backend.copy(x, mode)
    times = interleaved(functions, backend.finish, rounds)
    passes = {"training": TRAINING_PASSES, "inference": row.passes, "frozen": FROZEN_PASSES}[step]
    floor = times.pop("copy") * passes / 2
    best = min(times[name] for name in ("keras", "native") if name in times)
    line = {
        "row": row.name,
        "step": step,
        **{name: round(time, 4) for name, time in times.items()},
        "floor": round(floor, 4),
        "ours/best": round(times["ours"] / best, 3),
        "keras/ours": round(times["keras"] / times["ours"], 3),
        "ours/floor": round(times["ours"] / floor, 3),
    }
    if step == "frozen":
        line["ours/affine"] = round(times["ours"] / times["scale and shift"], 3)
    if row.mask:
        line["masked/unmasked"] = round(times["ours"] / times["unmasked"], 3)
    if step == "training" and not row.compiled:
        for name, count in backend.memory(row.ours, policy, x, mask if row.mask else None).items():
            line[name] = round(count, 3)
    return line


def measure_model(mode, batch, rounds):
    """Returns the line of the complete model: one training step."""
    # "auto" would mean no XLA on TensorFlow, on a machine without an accelerator.
    jit_compile = {"xla": True, "graph": False}.get(mode, "auto")

    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 32, 32, 3), "float32")
    y = rng.integers(0, 10, batch)
    functions = {}
    for name, normalization in (
        ("ours", keras_norm.BatchNormalization),
        ("keras", keras.layers.BatchNormalization),
        ("empty", rows.Empty),
    ):
        model = rows.resnet(normalization, jit_compile)
        functions[name] = lambda model=model: model.train_on_batch(x, y)
    times = interleaved(functions, lambda result: result, rounds)
    return {
        "row": "ResNet-style model",
        "step": "training",
        **{name: round(time, 3) for name, time in times.items()},
        "ours/best": round(times["ours"] / times["keras"], 3),
        "keras/ours": round(times["keras"] / times["ours"], 3),
    }


def lines_of(section, index, mode, tiny, rounds):
    """Returns the lines of the row at an index of a section, or of the complete model."""
    if section == "model":
        return [measure_model(mode, 2 if tiny else 32, max(2, rounds // 2))]
    members, factor = rows.sections()[section]
    row = rows.tiny(members[index]) if tiny else members[index]
    return [measure(of_backend(), row, mode, step, rounds * factor) for step in row.steps]


def of_backend():
    """Returns the module of benchmarks for Keras's backend."""
    return importlib.import_module(f"benchmarks.on_{keras.backend.backend()}")
