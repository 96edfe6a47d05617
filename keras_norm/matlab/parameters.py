"""The layers of a Keras model and their variables, under MATLAB's names."""

import keras

from keras_norm import _name_value, _validation

NAMES = {
    "gamma": "Scale",
    "beta": "Offset",
    "moving_mean": "TrainedMean",
    "moving_variance": "TrainedVariance",
    "kernel": "Weights",
    "embeddings": "Weights",
    "recurrent_kernel": "RecurrentWeights",
    "bias": "Bias",
    "alpha": "Alpha",
}


def layers(net, prefix=""):
    """Yields the layers of a model that are not models themselves, each with its name.

    A layer "bn" of an inner model "block" is "block/bn", as in MATLAB. A layer in `TimeDistributed`
    has the name of that wrapper.
    """
    for layer in net.layers:
        name = prefix + layer.name
        while isinstance(layer, keras.layers.TimeDistributed):
            layer = layer.layer
        if isinstance(layer, keras.Model):
            yield from layers(layer, f"{name}/")
        else:
            yield name, layer


def find_layer(net, name):
    """Returns the layer with the given name.

    Raises:
        TypeError: If `net` is not a model.
        ValueError: If it has no such layer; the message names the closest.
    """
    if not isinstance(net, keras.Model):
        raise TypeError(
            "With a layer's name, the argument before it must be a Keras model. "
            f"Received: {_validation.shown(net)} (of type {type(net).__name__})"
        )
    found = dict(layers(net))
    if isinstance(name, str) and name in found:
        return found[name]
    closest = _name_value.closest(name, found)
    raise ValueError(f"Model '{net.name}' has no layer {_validation.shown(name)}.{closest}")


def variables(layer):
    """Returns a built layer's variables by MATLAB's names; other variables keep their names.

    Raises:
        ValueError: If two variables have the same name, as in a layer made of several layers.
    """
    found = {}
    for variable in layer.weights:
        name = NAMES.get(variable.name, variable.name)
        if name == "Weights" and isinstance(layer, keras.layers.RNN):
            name = "InputWeights"
        if name in found:
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) has two variables for the "
                f"parameter '{name}': '{found[name].path}' and '{variable.path}'. It consists of "
                "several layers, which MATLAB's functions cannot distinguish."
            )
        found[name] = variable
    return found
