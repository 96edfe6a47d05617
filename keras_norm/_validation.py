"""Checks of arguments. Each error names the argument, the received and the accepted values."""

import math
import numbers
import reprlib

import numpy as np


class _Short(reprlib.Repr):
    """Shortens what is long."""

    def __init__(self):
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 8
        self.maxlong = 40
        self.maxstring = self.maxother = 120

    def repr_int(self, x, level):
        try:
            return super().repr_int(x, level)
        except ValueError:  # by default, Python does not print more than 4,300 digits
            return f"an integer of {int(math.log10(abs(x))) + 1} digits"


_short = _Short()


def shown(value):
    """Returns a value as messages show it: its `repr`, shortened where it is long."""
    if isinstance(value, np.ndarray) and value.size > 8:
        return (
            f"an array of shape {value.shape}, {_short.repr(value.ravel()[:8].tolist())[:-1]}, ...]"
        )
    return _short.repr(value)


def callable_name(x):
    """Returns the name of a function, layer or class; for other objects, of their class."""
    name = getattr(x, "__qualname__", None) or getattr(x, "__name__", None)
    return name if isinstance(name, str) else type(x).__name__


def real(name, value, *, low=-math.inf, high=math.inf, above=-math.inf, below=math.inf):
    """Returns `value` as a float, after checking that it is a finite number in `[low, high]`.

    Args:
        name: The argument's name, for the message.
        value: The received value.
        low: Smallest value accepted.
        high: Largest value accepted.
        above: The value must be larger than this one.
        below: The value must be smaller than this one.

    Raises:
        TypeError: If `value` is not a real number.
        ValueError: If it is NaN, infinite or out of range.
    """
    accepted = "a finite number"
    if math.isfinite(above):
        accepted += f" > {above:g}"
    if math.isfinite(low):
        accepted += f" >= {low:g}"
    if math.isfinite(high):
        accepted += f" and <= {high:g}"
    if math.isfinite(below):
        accepted += f" and < {below:g}"
    message = f"Argument `{name}` must be {accepted}. Received: {name}={shown(value)}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(message)
    try:
        number = float(value)
    except OverflowError as error:  # an integer beyond the range of float64
        raise ValueError(message) from error
    if not (math.isfinite(number) and low <= number <= high and above < number < below):
        raise ValueError(message)
    return number


def whole(name, value, accepted, *, low):
    """Returns `value` as an int, after checking that it is a whole number of at least `low`.

    Raises:
        TypeError: If `value` is not a whole number.
        ValueError: If it is smaller than `low`.
    """
    message = f"Argument `{name}` must be {accepted}. Received: {name}={shown(value)}"
    if not is_whole(value):
        raise TypeError(message)
    if value < low:
        raise ValueError(message)
    return int(value)


def boolean(name, value):
    """Returns `value` as a bool, after checking that it is True or False, or 1 or 0.

    Raises:
        TypeError: If it has another value.
    """
    if isinstance(value, (numbers.Integral, np.bool_)) and value in (0, 1):
        return bool(value)
    raise TypeError(f"Argument `{name}` must be True or False. Received: {name}={shown(value)}")


def neutral(name, value, accepted, remedy):
    """Checks an argument of Keras's layer that is accepted only with values that have no effect.

    Raises:
        ValueError: If it has another value; the message ends in `remedy`.
    """
    if not any(value is each for each in accepted):
        values = " or ".join(map(str, accepted))
        raise ValueError(
            f"Argument `{name}` must be {values}. {remedy} Received: {name}={shown(value)}"
        )


def keras_object(name, identifier, get, accepted):
    """Returns the object that Keras's function `get` returns for an identifier.

    Raises:
        ValueError: If `get` fails. The message names the accepted values.
    """
    if isinstance(identifier, dict):  # from a config: Keras's own error message is better
        return get(identifier)
    try:
        return get(identifier)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Argument `{name}` must be {accepted}. Received: {name}={shown(identifier)}"
        ) from error


def is_integer(value):
    """Returns whether `value` has an integer type other than bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_whole(value):
    """Returns whether `value` is an integer, or a float without a fraction.

    Counts in MATLAB, Wolfram and JSON can be floats.
    """
    is_float = isinstance(value, float | np.floating)
    return is_integer(value) or (is_float and float(value).is_integer())


def axis_index(name, axis, rank, owner):
    """Returns `axis` counted from the front, after checking it against the input's rank.

    Raises:
        ValueError: If `axis` is out of range. The message names `owner`, the layer.
    """
    if rank == 0:
        raise ValueError(f"The input of {owner} must have axes. Received: an input of rank 0")
    if not -rank <= axis < rank:
        raise ValueError(
            f"Argument `{name}` of {owner} is out of bounds for an input of rank {rank}: it must "
            f"lie in [{-rank}, {rank - 1}]. It is an axis, not a number of channels. "
            f"Received: {name}={shown(axis)}"
        )
    return axis % rank
