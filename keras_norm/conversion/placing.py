"""A layer that takes over the place of another: its path, its input, its weights."""

import contextlib
import math

import keras
import numpy as np

from keras_norm import multipliers

# Keras's RMSNormalization, and KerasHub's, call gamma so.
_SAME = {"scale": "gamma"}


def put_in_place(new, old):
    """Builds `new` like `old`, with its weights; returns pairs of variables, old and new."""
    if old.built and not new.built:
        with contextlib.ExitStack() as scopes:
            for scope in (old.path or old.name).split("/")[:-1]:
                scopes.enter_context(keras.name_scope(scope))
            new.build(old.get_build_config()["input_shape"])
    found = {_SAME.get(variable.name, variable.name): variable for variable in old.weights}
    pairs = []
    for after in new.weights:
        before = found.get(_SAME.get(after.name, after.name))
        if before is not None and math.prod(before.shape) == math.prod(after.shape):
            # A copy: JAX would share the array, and donate it in training.
            after.assign(np.array(keras.ops.convert_to_numpy(before)).reshape(after.shape))
            after.trainable = before.trainable
            for name in multipliers.KINDS:
                if hasattr(before, name):
                    setattr(after, name, getattr(before, name))
            pairs.append((before, after))
    return pairs
