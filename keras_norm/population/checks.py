"""Checks of the arguments of a pass over data."""

import inspect

import keras

from keras_norm import _validation


def check_model(model):
    """Checks that an argument is a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Argument `model` must be a Keras model. Received: {_validation.shown(model)}"
        )


def check_data_arguments(x, batch_size, steps, passes=1, is_read_again=False):
    """Checks arguments of `update_population_statistics`, or of a function that reads data so.

    Args:
        x: The data.
        batch_size: Argument of the same name.
        steps: Same.
        passes: Same.
        is_read_again: Whether the data is read more than once, however many passes that takes.
    """
    if x is None:
        raise ValueError("Argument `x` must be data, as `fit` takes it. Received: x=None")
    if steps is None and _is_endless(x):
        raise ValueError(
            "The data has no end: pass `steps`, the number of batches in a pass. "
            f"Received: steps=None and a {type(x).__name__}"
        )
    for name, value in (("batch_size", batch_size), ("steps", steps), ("passes", passes)):
        is_left_open = value is None and name != "passes"
        if not is_left_open:
            check_positive(name, value)
    if steps is None and (passes > 1 or is_read_again) and inspect.isgenerator(x):
        raise ValueError(
            "A generator is used up after one pass: pass `steps` too if it has no end, or data "
            f"that can be iterated again. Received: a generator, passes={passes}, steps=None"
        )


def check_positive(name, value):
    """Checks that an argument is a positive integer."""
    if not (_validation.is_integer(value) and value >= 1):
        raise ValueError(
            f"Argument `{name}` must be a positive integer. "
            f"Received: {name}={_validation.shown(value)}"
        )


def _is_endless(x):
    """Returns whether data is known to have no end; for a generator, this is unknown."""
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches is None
    cardinality = getattr(x, "cardinality", None)  # of a tf.data.Dataset, -1 for no end
    return (
        cardinality is not None and (cardinality() if callable(cardinality) else cardinality) == -1
    )
