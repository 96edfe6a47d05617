"""The registry of executors, which `normalize` and `standardize` try first.

An executor is a function that solves problems on one backend, perhaps on one kind of device. It
gets a `Problem` and the tensors, and returns the result of the plain function, or None to decline.
Executors change only the speed.

They are enabled unless the environment variable `KERAS_NORM_KERNELS` is 0 when the package is
imported; `set_enabled` switches them while a program runs. The setting is read when a step is
traced: compile again after a change.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import keras

_enabled = os.environ.get("KERAS_NORM_KERNELS", "1") != "0"


class Executor(NamedTuple):
    """A function that solves problems, and the options of `Problem` that it has declared."""

    run: Callable
    options: frozenset


# By function, backend and device; the executors of a list are tried in order.
_executors: dict[tuple, list[Executor]] = {}


def register(function, backend, run, options=(), device=None):
    """Registers an executor, which is tried after those registered earlier.

    Args:
        function: Name of the function in `keras_norm.ops`: "normalize" or "standardize".
        backend: Name of the Keras backend.
        run: Function of the `Problem` and the tensors of the call. It returns the result, or None.
        options: Names of the options of `Problem` that `run` knows. Problems that use another one
            are not offered to it.
        device: Kind of device that `run` supports, where the backend knows the device at the call;
            None where a program is compiled for a device later.
    """
    key = function, backend, device
    _executors.setdefault(key, []).append(Executor(run, frozenset(options)))


def registered(function, device=None):
    """Returns the executors for a function on the current backend and a device."""
    return tuple(_executors.get((function, keras.backend.backend(), device), ()))


def answer(function, problem, *tensors):
    """Returns the result of the first executor that takes the problem, or None."""
    if not _enabled:
        return None
    executors = registered(function, problem.device)
    options = problem.options if executors else None
    for executor in executors:
        if options <= executor.options:
            found = executor.run(problem, *tensors)
            if found is not None:
                return found
    return None


def is_enabled():
    """Returns whether executors are enabled."""
    return _enabled


def set_enabled(enabled):
    """Switches the executors on or off."""
    global _enabled
    _enabled = bool(enabled)
