"""Maps from variables to multipliers: by a variable's path, or by a regular expression."""

import difflib
import re

from keras_norm import _validation, multipliers


def checked_map(name, mapping):
    """Returns `mapping` as a dictionary from patterns to multipliers, after checking it.

    Args:
        name: The argument's name, for the message.
        mapping: What the user passed: a dictionary, or None for an empty one.

    Raises:
        TypeError: If it is not a dictionary, a key is not a string, or a value is neither a number
            nor a schedule.
        ValueError: If a key is not a regular expression, or a value is negative or not finite.
    """
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise TypeError(
            f"Argument `{name}` must be a dictionary from paths of variables, or regular "
            f"expressions, to multipliers. Received: {name}={_validation.shown(mapping)}"
        )
    for pattern in mapping:
        if not isinstance(pattern, str):
            raise TypeError(
                f"The keys of `{name}` must be strings: a variable's path, or a regular "
                f"expression. Received: {_validation.shown(pattern)} "
                f"(of type {type(pattern).__name__})"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"The key {pattern!r} of `{name}` is not a regular expression: {error}. "
                "If it is a variable's path, pass it through `re.escape`."
            ) from error
    return {
        pattern: multipliers.checked_multiplier(f"{name}[{pattern!r}]", value)
        for pattern, value in mapping.items()
    }


def match(name, mapping, paths, every=True):
    """Returns, for each path, the pattern that matches all of it, or None.

    Raises:
        ValueError: If two patterns match the same path, or, with `every`, a pattern matches none.
    """
    found = [None] * len(paths)
    for pattern in mapping:
        positions = [
            i for i, path in enumerate(paths) if path == pattern or re.fullmatch(pattern, path)
        ]
        if every and not positions:
            closest = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.0)
            raise ValueError(
                f"The pattern {pattern!r} of `{name}` matches none of the {len(paths)} variables "
                "that the optimizer trains. It must be a variable's path, or a regular expression "
                f"that matches all of it. The closest paths are: {', '.join(map(repr, closest))}"
            )
        for i in positions:
            if found[i] is not None:
                raise ValueError(
                    f"Two patterns of `{name}` match the variable '{paths[i]}': {found[i]!r} and "
                    f"{pattern!r}. Change one of them, so that the variable has one multiplier."
                )
            found[i] = pattern
    return found
