"""Checks of arguments. Each error names the argument, the received and the accepted values."""

import math
import numbers

import numpy as np


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
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"Argument `{name}` must be {accepted}. Received: {name}={value!r}")
    number = float(value)
    if not (math.isfinite(number) and low <= number <= high and above < number < below):
        raise ValueError(f"Argument `{name}` must be {accepted}. Received: {name}={value!r}")
    return number


def boolean(name, value):
    """Returns `value` as a bool, after checking that it is True or False, or 1 or 0.

    Raises:
        TypeError: If it has another value.
    """
    if isinstance(value, (numbers.Integral, np.bool_)) and value in (0, 1):
        return bool(value)
    raise TypeError(f"Argument `{name}` must be True or False. Received: {name}={value!r}")


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
            f"Argument `{name}` must be {accepted}. Received: {name}={identifier!r}"
        ) from error


def is_integer(value):
    """Returns whether `value` has an integer type other than bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


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
            f"lie in [{-rank}, {rank - 1}], as it says which axis, not how many channels. "
            f"Received: {name}={axis}"
        )
    return axis % rank
