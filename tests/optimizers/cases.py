"""Common parts of the tests of optimizers: every Keras optimizer, and its updates alone."""

import keras
import numpy as np

import keras_norm

SHAPES = [(4, 3), (3,), (2, 3, 2)]


def _optimizer(name, **settings):
    return lambda rate, **more: getattr(keras.optimizers, name)(rate, **(settings | more))


OPTIMIZERS = {
    "Adadelta": _optimizer("Adadelta"),
    "Adafactor": _optimizer("Adafactor"),
    "Adagrad": _optimizer("Adagrad"),
    "Adam": _optimizer("Adam"),
    "Adam-amsgrad": _optimizer("Adam", amsgrad=True),
    "AdamW": _optimizer("AdamW"),
    "Adamax": _optimizer("Adamax"),
    "Ftrl": _optimizer("Ftrl"),
    "Lamb": _optimizer("Lamb"),
    "Lion": _optimizer("Lion"),
    "Muon": _optimizer("Muon"),
    "Nadam": _optimizer("Nadam"),
    "RMSprop": _optimizer("RMSprop", momentum=0.9, centered=True),
    "SGD": _optimizer("SGD"),
    "SGD-momentum": _optimizer("SGD", momentum=0.9),
    "SGD-nesterov": _optimizer("SGD", momentum=0.9, nesterov=True),
    "ScheduleFreeAdamW": _optimizer("ScheduleFreeAdamW", warmup_steps=3),
}
if not hasattr(keras.optimizers, "ScheduleFreeAdamW"):  # not in Keras 3.13
    del OPTIMIZERS["ScheduleFreeAdamW"]


def arrays(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def gradients(steps=5):
    """The gradients of one group of variables, for each of a few steps."""
    return [arrays(100 + step) for step in range(steps)]


def variables(lr=None, l2=None, name="v"):
    made = [keras.Variable(value, name=name) for value in arrays(0)]
    for variable in made:
        keras_norm.set_multipliers(variable, lr, l2)
    return made


def values(made):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in made]


def run(optimizer, groups, steps):
    """Applies `steps` of gradients, the same for each group of variables."""
    together = [variable for group in groups for variable in group]
    for step in steps:
        optimizer.apply([keras.ops.convert_to_tensor(g) for _ in groups for g in step], together)


def alone(optimizer, steps, prepare=lambda made: None):
    """Where `optimizer`, alone on one group of variables, puts them."""
    made = variables()
    prepare(made)
    run(optimizer, [made], steps)
    return values(made)


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(got, expected, tolerance=2e-6):
    """Relative, in the 2-norm; the default is ten roundings of float32 over a few steps."""
    for a, b in zip(got, expected, strict=True):
        a = np.asarray(a, "float64")
        error = np.linalg.norm(a - b) / np.linalg.norm(np.float64(b))
        assert error <= tolerance, error
