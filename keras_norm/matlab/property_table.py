"""MATLAB's properties of the three layers: each with the way in and the way out."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_norm import _name_value, _validation, initializers
from keras_norm.layers import BatchNormalization, GroupNormalization, LayerNormalization
from keras_norm.layers.group_normalization import ALL_CHANNELS, CHANNEL_WISE
from keras_norm.matlab.operation_dimension import DIMENSIONS, operation_dimension

READ_ONLY = {"NumInputs": 1, "InputNames": ["in"], "NumOutputs": 1, "OutputNames": ["out"]}


@dataclasses.dataclass(frozen=True)
class Property:
    """One property.

    Attributes:
        argument: The layer's argument that it becomes.
        convert: From the property's name and its value in MATLAB to the argument's value.
        read: From a layer to the property's value in MATLAB.
    """

    argument: str
    convert: Callable[[str, Any], Any]
    read: Callable[[Any], Any]


def _number(argument, **limits):
    return Property(
        argument,
        lambda name, value: _validation.real(name, value, **limits),
        lambda layer: getattr(layer, argument),
    )


def _decay(argument):
    """MATLAB's decay is how much of a statistic is new, our momentum how much of it stays."""

    def convert(name, value):
        return 1.0 - _validation.real(name, value, low=0.0, high=1.0)

    def read(layer):
        momentum = getattr(layer, argument)
        momentum = layer.momentum if momentum is None else momentum
        return round(1.0 - momentum, 12)  # 0.1, and not 0.09999999999999998

    return Property(argument, convert, read)


def _values(variable, argument, low=-np.inf):
    def convert(name, value):
        return _name_value.vector(name, value, low)

    def read(layer):
        if getattr(layer, variable) is not None:
            return keras.ops.convert_to_numpy(getattr(layer, variable))
        values = _given_values(getattr(layer, argument))
        return [] if values is None else values

    return Property(argument, convert, read)


def _initializer(argument, default):
    names = {
        keras.initializers.Ones: "ones",
        keras.initializers.Zeros: "zeros",
        initializers.NarrowNormal: "narrow-normal",
    }

    def convert(name, value):
        if callable(value):
            return value
        return _name_value.choice(name, value, tuple(names.values()))

    def read(layer):
        initializer = getattr(layer, argument)
        if _given_values(initializer) is not None:
            return default
        if isinstance(initializer, initializers.SizeFunction):
            return initializer.function
        return names.get(type(initializer), initializer)

    return Property(argument, convert, read)


def _given_values(initializer):
    """Returns the values, one for each channel, that an initializer stands for, or None."""
    if isinstance(initializer, keras.initializers.Constant) and np.ndim(initializer.value):
        return np.reshape(initializer.value, -1)
    return None


def _name(name, value):
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string. Received: {name}={value!r}")
    return value


def _num_channels(name, value):
    if isinstance(value, str) and value == "auto":
        return value
    if _validation.is_integer(value) and value > 0:
        return value
    raise ValueError(f"`{name}` must be a positive integer or 'auto'. Received: {name}={value!r}")


def _num_groups(name, value):
    if _validation.is_integer(value) and value > 0:
        return value
    if isinstance(value, str):
        return _name_value.choice(name, value, (ALL_CHANNELS, CHANNEL_WISE))
    raise ValueError(
        f"`{name}` must be a positive integer, '{ALL_CHANNELS}' or '{CHANNEL_WISE}'. "
        f"Received: {name}={value!r}"
    )


_EPSILON = {"Epsilon": _number("epsilon", above=0.0)}
_NUM_CHANNELS = {
    "NumChannels": Property(
        "num_channels", _num_channels, lambda layer: layer.num_channels or "auto"
    )
}
# Scale and Offset come after the initializers, and win over them.
_PARAMETERS = {
    "ScaleInitializer": _initializer("gamma_initializer", "ones"),
    "OffsetInitializer": _initializer("beta_initializer", "zeros"),
    "Scale": _values("gamma", "gamma_initializer"),
    "Offset": _values("beta", "beta_initializer"),
}
_FACTORS = {
    "ScaleLearnRateFactor": _number("gamma_lr_multiplier", low=0.0),
    "OffsetLearnRateFactor": _number("beta_lr_multiplier", low=0.0),
    "ScaleL2Factor": _number("gamma_l2_multiplier", low=0.0),
    "OffsetL2Factor": _number("beta_l2_multiplier", low=0.0),
    "Name": Property("name", _name, lambda layer: layer.name),
}

BATCH = {
    "TrainedMean": _values("moving_mean", "moving_mean_initializer"),
    "TrainedVariance": _values("moving_variance", "moving_variance_initializer", low=0.0),
    **_EPSILON,
    **_NUM_CHANNELS,
    **_PARAMETERS,
    "MeanDecay": _decay("momentum"),
    "VarianceDecay": _decay("variance_momentum"),
    **_FACTORS,
}
LAYER = {
    **_EPSILON,
    "OperationDimension": Property(
        "operation_dimension",
        lambda name, value: _name_value.choice(name, value, DIMENSIONS),
        operation_dimension,
    ),
    **_NUM_CHANNELS,
    **_PARAMETERS,
    **_FACTORS,
}
GROUP = {
    "NumGroups": Property(
        "groups", _num_groups, lambda layer: CHANNEL_WISE if layer.groups == -1 else layer.groups
    ),
    **_EPSILON,
    **_NUM_CHANNELS,
    **_PARAMETERS,
    **_FACTORS,
}
TABLES = {BatchNormalization: BATCH, LayerNormalization: LAYER, GroupNormalization: GROUP}


def arguments(function, table, values):
    """Returns a layer's arguments for MATLAB's properties; empty values leave the defaults.

    Raises:
        ValueError: If properties, NumChannels among them, are for different numbers of channels;
            the message names `function`.
    """
    converted = {
        name: entry.convert(name, values[name])
        for name, entry in table.items()
        if name in values and not _name_value.is_empty(values[name])
    }
    sizes = {name: value.size for name, value in converted.items() if isinstance(value, np.ndarray)}
    if converted.get("NumChannels", "auto") != "auto":
        sizes = {"NumChannels": converted["NumChannels"], **sizes}
    _name_value.check_sizes(function, sizes)
    return {table[name].argument: value for name, value in converted.items()}


def properties(layer):
    """Returns all properties of a layer under MATLAB's names, the read-only ones included.

    Args:
        layer: A layer of `keras_norm`, made by the functions here or in any other way.

    Returns:
        A dictionary from the properties' names to their values; `[]` stands for what has no
        values yet.

    Raises:
        TypeError: If it is no layer of `keras_norm`.

    Example:
    >>> from keras_norm import matlab
    >>> layer = matlab.batchNormalizationLayer(MeanDecay=0.2)
    >>> matlab.properties(layer)["MeanDecay"], matlab.properties(layer)["Scale"]
    (0.2, [])

    Reference:
        https://www.mathworks.com/help/matlab/ref/properties.html
    """
    return {name: entry.read(layer) for name, entry in table_of(layer).items()} | (
        copy.deepcopy(READ_ONLY)
    )


def table_of(layer):
    """Returns the table of a layer's properties.

    Raises:
        TypeError: If it is no layer of `keras_norm`.
    """
    for kind, table in TABLES.items():
        if isinstance(layer, kind):
            return table
    raise TypeError(
        "Argument `layer` must be a batch, layer or group normalization of keras_norm. "
        f"Received: {layer!r} (of type {type(layer).__name__})"
    )
