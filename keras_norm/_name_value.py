"""Common functions for MATLAB's and Wolfram's names: name-value pairs and vectors."""

import contextlib
import difflib
import itertools
import sys

import keras
import numpy as np

from keras_norm import _validation


def collect(owner, names, pairs, keywords, refused=()):
    """Returns the properties in a call's arguments, as a dictionary from names to values.

    As in MATLAB, names are not case-sensitive.

    Args:
        owner: The name of the called function, for messages.
        names: All names that the function accepts.
        pairs: Its positional arguments: name, value, name, value, ...
        keywords: Its keyword arguments.
        refused: Dictionary from the names of refused properties to the reasons.

    Raises:
        TypeError: If a name is not a string.
        ValueError: If a name has no value, is unknown, refused or given twice.
    """
    if len(pairs) % 2:
        raise ValueError(
            f"{owner} takes pairs of a property's name and its value. Received: an odd number of "
            f"arguments ({len(pairs)}), the last of which is {_validation.shown(pairs[-1])}"
        )
    values = {}
    for given, value in [*zip(pairs[::2], pairs[1::2], strict=True), *keywords.items()]:
        if not isinstance(given, str):
            raise TypeError(
                f"{owner} takes pairs of a property's name and its value. "
                f"Received: {_validation.shown(given)} where a name should be"
            )
        name = find([*names, *refused], given)
        if name in refused:
            raise ValueError(f"The property '{name}' of {owner} {refused[name]}")
        if name is None:
            raise ValueError(
                f"{owner} has no property {_validation.shown(given)}.{hint(given, names)} "
                f"It takes: {', '.join(names)}"
            )
        if name in values:
            raise ValueError(f"{owner} takes each property once. Received: {name!r} twice")
        values[name] = value
    return values


def find(names, given):
    """Returns the name that equals the given one except for upper and lower case, or None."""
    return next((name for name in names if name.casefold() == given.casefold()), None)


def hint(given, names):
    """Returns a space and a sentence that suggests a name; nothing if no name is similar."""
    # Misspelt names are more similar than this cutoff, unrelated names are less similar.
    name = _closest(given, names, cutoff=0.65)
    return "" if name is None else f" Did you mean {name!r}?"


def closest(given, names):
    """Returns a space and a sentence with the closest name; nothing if there are no names."""
    name = _closest(given, names, cutoff=0.0)
    return "" if name is None else f" The closest that it has is {name!r}."


def _closest(given, names, cutoff):
    """Returns the name most similar to the given one, ignoring case.

    None if its similarity is below `cutoff` (equal names have similarity 1) or `given` is not a
    string.
    """
    if not isinstance(given, str):
        return None
    names = {name.casefold(): name for name in names}
    found = difflib.get_close_matches(given.casefold(), names, n=1, cutoff=cutoff)
    return names[found[0]] if found else None


def choice(name, value, choices):
    """Returns `value` if it is one of the strings `choices`.

    Raises:
        ValueError: If it is not; the message names the closest.
    """
    if isinstance(value, str) and value in choices:
        return value
    accepted = ", ".join(map(repr, choices))
    shown = _validation.shown(value)
    raise ValueError(
        f"`{name}` must be one of {accepted}. Received: {name}={shown}.{hint(value, choices)}"
    )


def positive_integer(name, value, otherwise=""):
    """Returns `value`, a whole number, as an int.

    Raises:
        ValueError: If it is not a positive integer; `otherwise` names other accepted values.
    """
    if _validation.is_whole(value) and 0 < value <= sys.maxsize:
        return int(value)
    otherwise = otherwise if otherwise.startswith(",") or not otherwise else f" {otherwise}"
    raise ValueError(
        f"`{name}` must be a positive integer{otherwise}. "
        f"Received: {name}={_validation.shown(value)}"
    )


@contextlib.contextmanager
def renamed(names):
    """Replaces our argument names, in errors raised inside, with the names that the user typed.

    Args:
        names: Dictionary from our names to the user's names.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error)
        for argument, name in names.items():
            message = message.replace(f"`{argument}`", f"`{name}`")
            message = message.replace(f" {argument}=", f" {name}=")
        if message == str(error):
            raise
        raise type(error)(message) from error


def vector(name, values, low=-np.inf):
    """Returns values, one for each channel, as an array of floats of the same shape.

    Args:
        name: The property's name, for messages.
        values: Numbers in an array or nested list that is longer than 1 along one axis at most,
            such as MATLAB's 1-by-1-by-C.
        low: Smallest value accepted.

    Raises:
        ValueError: If they are not such numbers, or one is not finite or too small.
    """
    if keras.ops.is_tensor(values):
        values = keras.ops.convert_to_numpy(values)
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or sum(size > 1 for size in array.shape) > 1:
        raise ValueError(
            f"`{name}` must contain one number for each channel: a vector, or an array of a size "
            f"such as 1-by-1-by-C. Received: {name}={_validation.shown(values)}"
        )
    if not np.all(np.isfinite(array)) or np.any(array < low):
        least = f" >= {low:g}" if np.isfinite(low) else ""
        raise ValueError(
            f"`{name}` must contain finite numbers{least}. "
            f"Received: {name}={_validation.shown(values)}"
        )
    return np.atleast_1d(array).astype(float)


def check_sizes(owner, sizes):
    """Checks that all numbers of channels are the same.

    Args:
        owner: The function that was called, for messages.
        sizes: Dictionary from the names of properties to the numbers of channels they stand for.

    Raises:
        ValueError: If two differ; the message names both properties.
    """
    for (first, expected), (name, size) in itertools.pairwise(sizes.items()):
        if size != expected:
            raise ValueError(
                f"{owner}: `{first}` and `{name}` must be for the same number of channels. "
                f"Received: {first} for {expected}, {name} for {size}"
            )


def is_empty(value):
    """Returns whether `value` is MATLAB's empty array, `[]`, or an empty string."""
    if isinstance(value, (str, list, tuple)):
        return not value
    return isinstance(value, np.ndarray) and value.size == 0
