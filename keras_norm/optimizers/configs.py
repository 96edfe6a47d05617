"""What the configuration of a `MultiplierOptimizer` contains, so that every backend can read it."""

import json

import keras

from keras_norm import multipliers


def serialized_rows(rows):
    """Returns rows of multipliers and patterns with configurations for the schedules."""
    return rows and [[multipliers.serialize(value) for value in row] for row in rows]


def deserialized_rows(rows):
    """Returns saved rows with deserialized schedules; equal schedules become one object."""
    if rows is None:
        return None
    made: dict = {}

    def value(given):
        if not isinstance(given, dict):
            return given
        key = json.dumps(given, sort_keys=True)
        if key not in made:
            made[key] = keras.saving.deserialize_keras_object(given)
        return made[key]

    # Version 0.1.0 had no multipliers of weight decay.
    return [[value(given) for given in (*row, 1.0, None)[:6]] for row in rows]


def portable(config):
    """Returns the configuration of an optimizer with a class that all backends can import.

    Keras on PyTorch writes the class of a module that other backends cannot import.
    """
    if not str(config.get("module")).startswith("keras.src.backend."):
        return config
    if not hasattr(keras.optimizers, config["class_name"]):
        return config
    return {**config, "module": "keras.optimizers", "registered_name": None}
