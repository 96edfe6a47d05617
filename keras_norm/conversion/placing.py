"""Replaces a layer with another one that has the same path, input and weights."""

import contextlib
import math

import keras
import numpy as np

from keras_norm import multipliers

# The name of gamma in the RMSNormalization of Keras and KerasHub.
_SAME = {"scale": "gamma"}


def built_like(new, old):
    """Builds `new` for the inputs that `old` was built for, under the same path; returns it."""
    with contextlib.ExitStack() as scopes:
        for scope in (old.path or old.name).split("/")[:-1]:
            scopes.enter_context(keras.name_scope(scope))
        new.build_from_config(old.get_build_config())
    return new


def put_in_place(new, old):
    """Builds `new` like `old`, with its weights; returns pairs of variables, old and new."""
    if old.built and not new.built:
        built_like(new, old)
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


def arrays_of(layer):
    """Returns a layer's weights as float64 arrays, by name."""
    return {v.name: keras.ops.convert_to_numpy(v).astype("float64") for v in layer.weights}


def with_arrays(layer, arrays, **changed):
    """Returns a layer like `layer`, with other weights, and pairs of variables, old and new.

    Args:
        layer: A built layer that has an activation.
        arrays: Dictionary of names and values.
        **changed: The arguments of the constructor that differ.
    """
    activation = layer.activation
    if not isinstance(activation, keras.layers.Layer):
        layer.activation = keras.activations.linear  # not every function has a config
    new = type(layer).from_config(layer.get_config() | changed)
    new.activation = layer.activation = activation
    return new, assigned(new, layer, arrays)


def assigned(new, old, arrays):
    """Builds `new` like `old`, with the values in `arrays` and 0; returns pairs of variables."""
    pairs = put_in_place(new, old)
    for variable in new.weights:
        variable.assign(np.broadcast_to(arrays.get(variable.name, 0.0), variable.shape))
    return pairs
