"""MATLAB's properties of the layers: how each is set and read, and those that all layers have."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_norm import _name_value, _validation, initializers
from keras_norm.conversion.kinds import KINDS, kind_of, our_names
from keras_norm.layers.normalization import Normalization
from keras_norm.matlab.given_values import GivenValues, given, overridden

HYPERPARAMETERS = "Hyperparameters"
LEARNABLE_PARAMETERS = "Learnable Parameters"
STATE_PARAMETERS = "State Parameters"
HEADINGS = (HYPERPARAMETERS, LEARNABLE_PARAMETERS, STATE_PARAMETERS)

READ_ONLY = {"NumInputs": 1, "InputNames": ["in"], "NumOutputs": 1, "OutputNames": ["out"]}


@dataclasses.dataclass(frozen=True)
class Property:
    """One property.

    Attributes:
        argument: The corresponding argument of the layer.
        convert: Function of the property's name and its value in MATLAB that returns the argument's
            value.
        read: Function of a layer that returns the property's value in MATLAB.
        heading: The heading of the property in the sheet; None if the sheet does not show it.
        variable: The layer's variable whose value the property is, if there is one.
        default: The default initializer of that variable.
    """

    argument: str
    convert: Callable[[str, Any], Any]
    read: Callable[[Any], Any]
    heading: str | None = None
    variable: str | None = None
    default: str = "ones"


def number(argument, heading=None, **limits):
    """Returns the property for an argument that is a number within limits."""
    return Property(
        argument,
        lambda name, value: _validation.real(name, value, **limits),
        lambda layer: getattr(layer, argument),
        heading,
    )


def values(variable, argument, default, heading, low=-np.inf):
    """Returns the property for the values of a variable, which an argument initializes."""

    def convert(name, value):
        return _name_value.vector(name, value, low)

    def read(layer):
        if getattr(layer, variable) is not None:
            value = keras.ops.convert_to_numpy(getattr(layer, variable))
            return value if value.ndim > 1 else value.reshape(_size(layer, len(value)))
        values = given(getattr(layer, argument))
        return [] if values is None else np.array(values)

    return Property(argument, convert, read, heading, variable, default)


def _size(layer, channels):
    """Returns the size that MATLAB gives a built layer's values: 1-by-1-by-C for images.

    For features and sequences it is C-by-1, here a vector.
    """
    shape = (layer.get_build_config() or {}).get("input_shape") or (None, channels)
    return (*[1] * (len(shape) - 2 if len(shape) > 3 else 0), channels)


def _initializer(argument, default):
    names = {
        keras.initializers.Ones: "ones",
        keras.initializers.Zeros: "zeros",
        initializers.NarrowNormal: "narrow-normal",
    }

    def convert(name, value):
        if isinstance(value, keras.initializers.Initializer):
            return value
        if callable(value):
            return initializers.get(value, name)
        return initializers.get(_name_value.choice(name, value, tuple(names.values())), name)

    def read(layer):
        initializer = overridden(getattr(layer, argument), default)
        if isinstance(initializer, initializers.SizeFunction):
            return initializer.function
        return names.get(type(initializer), initializer)

    return Property(argument, convert, read)


def _name(name, value):
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string. Received: {name}={_validation.shown(value)}")
    return value


def _num_channels(name, value):
    if isinstance(value, str) and value == "auto":
        return value
    return _name_value.positive_integer(name, value, "or 'auto'")


# The properties that all layers have. Offset and Scale follow the initializers, and override them.
SHARED = {
    "Epsilon": number("epsilon", HYPERPARAMETERS, above=0.0),
    "NumChannels": Property(
        "num_channels", _num_channels, lambda layer: layer.num_channels or "auto"
    ),
    "ScaleInitializer": _initializer("gamma_initializer", "ones"),
    "OffsetInitializer": _initializer("beta_initializer", "zeros"),
    "Offset": values("beta", "beta_initializer", "zeros", LEARNABLE_PARAMETERS),
    "Scale": values("gamma", "gamma_initializer", "ones", LEARNABLE_PARAMETERS),
    "ScaleLearnRateFactor": number("gamma_lr_multiplier", low=0.0),
    "OffsetLearnRateFactor": number("beta_lr_multiplier", low=0.0),
    "ScaleL2Factor": number("gamma_l2_multiplier", low=0.0),
    "OffsetL2Factor": number("beta_l2_multiplier", low=0.0),
    "Name": Property("name", _name, lambda layer: layer.name),
}


def arguments(function, table, values):
    """Returns a layer's arguments for MATLAB's properties; empty values mean the defaults.

    Raises:
        ValueError: If properties, including NumChannels, have different numbers of channels; the
            message names `function`.
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
    found = {}
    for name, value in converted.items():  # values come after their initializer
        argument = table[name].argument
        found[argument] = overriding(value, found.get(argument))
    return found


def overriding(value, initializer):
    """Returns the layer's argument for a value: given values override an earlier initializer."""
    if isinstance(value, np.ndarray) and initializer is not None:
        return GivenValues(value.tolist(), initializer)
    return value


def properties(layer):
    """Returns all properties of a layer under MATLAB's names, including the read-only ones.

    Args:
        layer: A layer of `keras_norm`, from MATLAB's functions or not.

    Returns:
        A dictionary from the properties' names to their values; `[]` for parameters without
        values.

    Raises:
        TypeError: If `layer` is not a layer of `keras_norm` that MATLAB has.

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
        TypeError: If `layer` is not a layer of `keras_norm` that MATLAB has.
    """
    return matlab_class(layer).property_table


def matlab_class(layer):
    """Returns the class that MATLAB's function for a layer of this kind returns.

    Raises:
        TypeError: If `layer` is not a layer of `keras_norm` that MATLAB has.
    """
    kind = kind_of(layer) if isinstance(layer, Normalization) else None
    if kind is None or kind.matlab is None:
        accepted = our_names([kind for kind in KINDS if kind.matlab])
        raise TypeError(
            f"Argument `layer` must be a {accepted} of keras_norm. "
            f"Received: {_validation.shown(layer)} (of type {type(layer).__name__})"
        )
    return kind.matlab_class


def names_of_arguments(layer):
    """Returns MATLAB's names of a layer's arguments; values that are given have their own."""
    names = {}
    for name, entry in table_of(layer).items():
        has_values = given(getattr(layer, entry.argument, None)) is not None
        if has_values or entry.variable is None:
            names[entry.argument] = name
    return names
