"""Wolfram's spelling of batch normalization, translated to Keras and keras_norm."""

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
_PARAMETERS = ("Epsilon", "Momentum", "Interleaving", "Input")


@keras.saving.register_keras_serializable("keras_norm")
class AppliedBatchNormalization(layers.BatchNormalization):
    """A `BatchNormalization` that, once built, also takes one input, or a list of inputs.

    A batch has one axis more than an input. Whatever has the axes of one input gives one output,
    a list of inputs a list of outputs. Arguments are those of `BatchNormalization`.
    """

    def __call__(self, inputs, *args, **kwargs):
        """Returns the outputs for a batch, one input or a list of inputs."""
        if isinstance(inputs, (list, tuple)):
            inputs = keras.ops.stack(inputs)
            outputs = self(inputs, *args, **kwargs)
            is_one = self.built and len(inputs.shape) < self.input_spec.ndim
            return outputs if is_one else list(outputs)
        if self.built and len(np.shape(inputs)) == self.input_spec.ndim - 1:
            return super().__call__(keras.ops.expand_dims(inputs, 0), *args, **kwargs)[0]
        return super().__call__(inputs, *args, **kwargs)


def BatchNormalizationLayer(*pairs, **options):
    """Returns a `keras_norm.BatchNormalization`, made from Wolfram's options.

    In training with the mean and variance of each channel over the batch and all positions, in
    inference with the moving ones:

        output = Scaling * (input - mean) / sqrt(variance + Epsilon) + Biases
        MovingMean = Momentum * MovingMean + (1 - Momentum) * mean
        MovingVariance = Momentum * MovingVariance + (1 - Momentum) * variance

    The layer goes into Keras models, which give it batches. Once built it can be applied as
    Wolfram's to one input or to a list of inputs as well: in inference, unless `training=True`.

    Args:
        *pairs: Options as names and values: `"Epsilon", 0.01, "Input", [3, 8, 8]`.
        **options: Options as keywords: `Epsilon=0.01, Input=[3, 8, 8]`.
            Biases, Scaling: Learnable arrays, a number for each channel; or "Automatic", the
            default, for 0 and 1. Beta and Gamma are their older names.
            MovingMean, MovingVariance: The statistics to start from, a number for each channel;
            or "Automatic", the default, for 0 and 1.
            Epsilon: Number > 0, added to the variance. Default: 0.001.
            Momentum: Number in [0, 1]. Default: 0.9.
            Interleaving: False, the default, for channels as the first axis of an input; True for
            the last one.
            Input: Size of an input without the batch, an integer or a list; the layer is then
            built at once. Default: "Automatic", when it is first called.

    Returns:
        A `keras_norm.BatchNormalization`.

    Raises:
        TypeError: If a value is of a wrong type.
        ValueError: If an option is unknown, twice given or without a value, or a value is out of
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
    names = (*_VARIABLES, *_PARAMETERS)
    values = _name_value.collect(function, names, pairs, options)
    arguments = {
        "axis": -1 if _interleaving(values.get("Interleaving", False)) else 1,
        "epsilon": _validation.real("Epsilon", values.get("Epsilon", 0.001), above=0.0),
        "momentum": _validation.real("Momentum", values.get("Momentum", 0.9), low=0.0, high=1.0),
    }
    size = values.get("Input", AUTOMATIC)
    size = None if _is_automatic(size) else _input_size(size)
    sizes = {} if size is None else {"Input": size[-1 if arguments["axis"] == -1 else 0]}
    for aliases, variable, low in _ARRAYS:
        given = [name for name in aliases if name in values]
        if len(given) > 1:
            raise ValueError(f"{function} takes '{given[0]}' or '{given[1]}', its older name")
        if given and not _is_automatic(values[given[0]]):
            array = _name_value.vector(given[0], values[given[0]], low).ravel()
            arguments[f"{variable}_initializer"] = array
            sizes[given[0]] = array.size
    _name_value.check_sizes(function, sizes)
    layer = AppliedBatchNormalization(**arguments)
    if size is not None:
        layer.build((None, *size))
    return layer


def NetExtract(layer, name):
    """Returns an array or option of a batch normalization under Wolfram's name.

    Args:
        layer: A `keras_norm.BatchNormalization`, made by `BatchNormalizationLayer` or otherwise.
        name: An option of `BatchNormalizationLayer`.

    Returns:
        A NumPy array, a number, or for "Input" a list; "Automatic" for what is not known yet.

    Raises:
        TypeError: If the layer is no batch normalization of keras_norm.
        ValueError: If the name is unknown.

    Example:
    >>> from keras_norm.wolfram import BatchNormalizationLayer, NetExtract
    >>> layer = BatchNormalizationLayer(Gamma=[1, 2], Input=[2, 8, 8])
    >>> NetExtract(layer, "Scaling").tolist(), NetExtract(layer, "Input")
    ([1.0, 2.0], [2, 8, 8])

    Reference:
        https://reference.wolfram.com/language/ref/NetExtract.html
    """
    if not isinstance(layer, layers.BatchNormalization):
        raise TypeError(
            "Argument `layer` must be a keras_norm.BatchNormalization. "
            f"Received: {layer!r} (of type {type(layer).__name__})"
        )
    _name_value.choice("name", name, (*_VARIABLES, *_PARAMETERS))
    if name in _VARIABLES:
        variable = getattr(layer, _VARIABLES[name])
        if variable is not None:
            return keras.ops.convert_to_numpy(variable)
        initializer = getattr(layer, f"{_VARIABLES[name]}_initializer")
        given = isinstance(initializer, keras.initializers.Constant)
        return np.array(initializer.value) if given else AUTOMATIC
    if name == "Input":
        return list(layer.get_build_config()["input_shape"][1:]) if layer.built else AUTOMATIC
    if name == "Interleaving":
        return layer.axis == -1
    return {"Epsilon": layer.epsilon, "Momentum": layer.momentum}[name]


def _is_automatic(value):
    return isinstance(value, str) and value == AUTOMATIC


def _interleaving(value):
    if not isinstance(value, bool):
        raise TypeError(f"`Interleaving` must be True or False. Received: Interleaving={value!r}")
    return value


def _input_size(value):
    sizes = list(value) if isinstance(value, (list, tuple)) else [value]
    if not sizes or not all(_validation.is_integer(size) and size > 0 for size in sizes):
        raise ValueError(
            "`Input` must be a positive integer, or a list of them, for the size of one input. "
            f"Received: Input={value!r}"
        )
    return sizes
