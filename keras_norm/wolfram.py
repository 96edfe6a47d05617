"""Wolfram's functions for batch normalization, translated to keras_norm."""

import keras
import numpy as np

from keras_norm import _name_value, _validation, layers

__all__ = ["BatchNormalizationLayer", "NetExtract"]

AUTOMATIC = "Automatic"
# Each learnable array: its names, the newer one first; the layer's variable; the least value.
_ARRAYS = (
    (("Biases", "Beta"), "beta", -np.inf),
    (("Scaling", "Gamma"), "gamma", -np.inf),
    (("MovingMean",), "moving_mean", -np.inf),
    (("MovingVariance",), "moving_variance", 0.0),
)
_VARIABLES = {name: variable for names, variable, _ in _ARRAYS for name in names}
_PARAMETERS = ("Epsilon", "Momentum", "Interleaving", "Input", "Output")
_NAMES = (*_VARIABLES, *_PARAMETERS)
# Wolfram's names of the layer's arguments.
_ARGUMENTS = {"epsilon": "Epsilon", "momentum": "Momentum"} | {
    f"{variable}_initializer": names[0] for names, variable, _ in _ARRAYS
}


@keras.saving.register_keras_serializable("keras_norm")
class AppliedBatchNormalization(layers.BatchNormalization):
    """A `BatchNormalization` that, once built, also takes one input, or a list of inputs.

    A batch has one more axis than an input. For an array with the axes of one input, the layer
    returns one output; for a list of inputs, a list of outputs. The arguments are those of
    `BatchNormalization`.
    """

    def build(self, input_shape):
        """Creates the variables; errors have Wolfram's names of the arrays."""
        with _name_value.renamed(_ARGUMENTS):
            super().build(input_shape)

    def __call__(self, inputs, *args, **kwargs):
        """Returns the outputs for a batch, one input or a list of inputs."""
        if isinstance(inputs, (list, tuple)):
            _check_sizes(inputs)
            if not self.built and np.ndim(inputs[0]) == 0:
                raise ValueError(
                    f"The size of an input of {self._described} is not known yet, so it is unknown "
                    "whether a list of numbers is one input. Pass the size: "
                    f"BatchNormalizationLayer(Input={len(inputs)})"
                )
            inputs = keras.ops.stack(inputs)
            outputs = self(inputs, *args, **kwargs)
            is_one = self.built and len(inputs.shape) < self.input_spec.ndim
            return outputs if is_one else list(outputs)
        if self.built and len(np.shape(inputs)) == self.input_spec.ndim - 1:
            return super().__call__(keras.ops.expand_dims(inputs, 0), *args, **kwargs)[0]
        return super().__call__(inputs, *args, **kwargs)


def BatchNormalizationLayer(*pairs, **options):
    """Returns a `keras_norm.BatchNormalization` for Wolfram's options.

    In training, the layer uses the mean and variance of each channel over the batch and all
    positions. In inference, it uses the moving mean and variance:

        output = Scaling * (input - mean) / sqrt(variance + Epsilon) + Biases
        MovingMean = Momentum * MovingMean + (1 - Momentum) * mean
        MovingVariance = Momentum * MovingVariance + (1 - Momentum) * variance

    In a Keras model, the layer normalizes batches. Like Wolfram's layer, a built layer can also be
    applied to one input or to a list of inputs: in inference, unless `training=True`.

    Args:
        *pairs: Options as names and values: `"Epsilon", 0.01, "Input", [3, 8, 8]`.
        **options: Options as keywords: `Epsilon=0.01, Input=[3, 8, 8]`.
            Biases, Scaling: Learnable arrays, a number for each channel; or "Automatic", the
            default, for 0 and 1. Beta and Gamma are their older names.
            MovingMean, MovingVariance: The initial statistics, a number for each channel; or
            "Automatic", the default, for 0 and 1.
            Epsilon: Number > 0, added to the variance. Default: 0.001.
            Momentum: Number in [0, 1]. Default: 0.9.
            Interleaving: False, the default, for channels as the first axis of an input; True for
            the last one.
            Input, Output: Size of an input, and of an output, without the batch: an integer or a
            list. The layer is then built immediately. Default: "Automatic", which builds the layer
            at its first call.

    Returns:
        A `keras_norm.BatchNormalization`.

    Raises:
        TypeError: If a value is of a wrong type.
        ValueError: If an option is unknown, given twice or without a value, or a value is out of
            range or does not fit `Input`.

    Example:
    >>> import keras
    >>> from keras_norm.wolfram import BatchNormalizationLayer
    >>> layer = BatchNormalizationLayer("Input", 2, "MovingMean", [1, 2], "Epsilon", 1e-9)
    >>> keras.ops.convert_to_numpy(layer([4.0, 6.0])).tolist()
    [3.0, 4.0]
    >>> outputs = layer([[4.0, 6.0], [1.0, 2.0]])  # two inputs
    >>> keras.ops.convert_to_numpy(outputs[1]).tolist()
    [0.0, 0.0]

    Reference:
        https://reference.wolfram.com/language/ref/BatchNormalizationLayer.html
    """
    function = "BatchNormalizationLayer"
    values = _name_value.collect(function, _NAMES, pairs, options)
    arguments = {
        "axis": -1 if _interleaving(values.get("Interleaving", False)) else 1,
        "epsilon": _validation.real("Epsilon", values.get("Epsilon", 0.001), above=0.0),
        "momentum": _validation.real("Momentum", values.get("Momentum", 0.9), low=0.0, high=1.0),
    }
    size, port = _size_of_an_input(values)
    sizes = {} if size is None else {port: size[-1 if arguments["axis"] == -1 else 0]}
    for aliases, variable, low in _ARRAYS:
        given = [name for name in aliases if name in values]
        if len(given) > 1:
            raise ValueError(f"{function} takes '{given[0]}' or '{given[1]}', its older name")
        if given and not _is_automatic(values[given[0]]):
            array = _name_value.vector(given[0], values[given[0]], low).ravel()
            arguments[f"{variable}_initializer"] = array
            sizes[given[0]] = array.size
    _name_value.check_sizes(function, sizes)
    with _name_value.renamed(_ARGUMENTS):
        layer = AppliedBatchNormalization(**arguments)
    if size is not None:
        layer.build((None, *size))
    return layer


def NetExtract(layer, name):
    """Returns an array or option of a batch normalization under Wolfram's name.

    Args:
        layer: A `keras_norm.BatchNormalization`, made by `BatchNormalizationLayer` or otherwise;
            or a Keras model that has one.
        name: An option of `BatchNormalizationLayer`; names are not case-sensitive. For a model, a
            list of the layer's position, counted from 1 (from -1 at the end), or its name, and the
            option: `[2, "Gamma"]`. A list without the option selects the layer itself; in nested
            models the list has a position or name for each level.

    Returns:
        A NumPy array, a number, or for "Input" and "Output" a list; "Automatic" for values that
        are not known yet.

    Raises:
        TypeError: If the layer is not a batch normalization of keras_norm.
        ValueError: If the name is unknown, or the model has no such layer.

    Example:
    >>> from keras_norm.wolfram import BatchNormalizationLayer, NetExtract
    >>> layer = BatchNormalizationLayer(Gamma=[1, 2], Input=[2, 8, 8])
    >>> NetExtract(layer, "Scaling").tolist(), NetExtract(layer, "Input")
    ([1.0, 2.0], [2, 8, 8])

    Reference:
        https://reference.wolfram.com/language/ref/NetExtract.html
    """
    if isinstance(layer, keras.Model):
        first, *rest = name if isinstance(name, (list, tuple)) and name else [name]
        part = _part(layer, first)
        return NetExtract(part, rest if len(rest) > 1 else rest[0]) if rest else part
    if not isinstance(layer, layers.BatchNormalization):
        raise TypeError(
            "Argument `layer` must be a keras_norm.BatchNormalization, or a Keras model with "
            f"NetExtract(model, [2, 'Gamma']). Received: {_validation.shown(layer)} "
            f"(of type {type(layer).__name__})"
        )
    if isinstance(name, (list, tuple)) and len(name) == 1:
        (name,) = name
    if isinstance(name, str):
        name = _name_value.find(_NAMES, name) or name
    _name_value.choice("name", name, _NAMES)
    if name in _VARIABLES:
        variable = getattr(layer, _VARIABLES[name])
        if variable is not None:
            return keras.ops.convert_to_numpy(variable)
        initializer = getattr(layer, f"{_VARIABLES[name]}_initializer")
        given = isinstance(initializer, keras.initializers.Constant)
        return np.array(initializer.value) if given else AUTOMATIC
    if name in ("Input", "Output"):
        return list(layer.get_build_config()["input_shape"][1:]) if layer.built else AUTOMATIC
    if name == "Interleaving":
        return layer.axis == -1
    return {"Epsilon": layer.epsilon, "Momentum": layer.momentum}[name]


def _part(net, place):
    """Returns the layer of a model at a position, counted from 1, or with a name."""
    parts = [part for part in net.layers if not isinstance(part, keras.layers.InputLayer)]
    if isinstance(place, str):
        found = [part for part in parts if part.name == place]
        if found:
            return found[0]
        hint = _name_value.hint(place, [part.name for part in parts])
    else:
        hint = ""
        if _validation.is_whole(place) and 1 <= abs(place) <= len(parts):
            return parts[int(place) - (place > 0)]
    raise ValueError(
        f"Model '{net.name}' has layers at positions 1 to {len(parts)}, as in "
        f"NetExtract(model, [1, 'Gamma']). Received: {_validation.shown(place)}, which is neither "
        f"a position nor a layer's name.{hint}"
    )


def _check_sizes(inputs):
    """Checks that a list contains inputs of one size, or numbers."""
    try:
        sizes = {tuple(np.shape(one)) for one in inputs}
    except ValueError:  # rows of different lengths in one of them
        sizes = set()
    if len(sizes) != 1:
        described = ", ".join(sorted(map(str, sizes))) if sizes else "none, or uneven lists"
        raise ValueError(
            "A list must contain inputs of one size. "
            f"Received: {len(inputs)} inputs, of sizes {described}"
        )


def _is_automatic(value):
    return isinstance(value, str) and value == AUTOMATIC


def _interleaving(value):
    if not isinstance(value, bool):
        raise TypeError(
            "`Interleaving` must be True or False. "
            f"Received: Interleaving={_validation.shown(value)}"
        )
    return value


def _size_of_an_input(values):
    """Returns the size of an input, None if it is left open, and the option that gives it."""
    given = {
        port: _checked_size(port, values[port])
        for port in ("Input", "Output")
        if port in values and not _is_automatic(values[port])
    }
    sizes = list(given.values())
    if len(sizes) == 2 and sizes[0] != sizes[1]:
        raise ValueError(
            "`Output` must be the size of `Input`, or be left out. "
            f"Received: Input={sizes[0]}, Output={sizes[1]}"
        )
    return next(((size, port) for port, size in given.items()), (None, None))


def _checked_size(port, value):
    sizes = list(value) if isinstance(value, (list, tuple)) else [value]
    if not sizes or not all(_validation.is_whole(size) and size > 0 for size in sizes):
        raise ValueError(
            f"`{port}` must be a positive integer, or a list of them, for the size of one input. "
            f"Received: {port}={_validation.shown(value)}"
        )
    return list(map(int, sizes))
