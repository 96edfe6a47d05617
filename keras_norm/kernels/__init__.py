"""Fast versions of functions in `keras_norm.ops`, a module a backend, and where one is chosen.

A kernel has the name and the signature of the plain function that it stands in for, and its
results, gradients and gradients of gradients. It may decline a call by returning None; the plain
function then answers. So kernels change speed and nothing else.

They are on unless the environment variable `KERAS_NORM_KERNELS` is 0 when they are first used;
`set_enabled` switches them during a run. As with every setting that is read while a step is
traced, compile again after a change.
"""

import functools
import importlib
import os

import keras

_enabled = os.environ.get("KERAS_NORM_KERNELS", "1") != "0"
_kernels = {}


def is_enabled():
    """Returns whether kernels are used where there are any."""
    return _enabled


def set_enabled(enabled):
    """Switches the kernels on or off."""
    global _enabled
    _enabled = bool(enabled)


def accelerated(plain):
    """Returns a function that asks the backend's kernel of the same name first, then `plain`.

    `plain` stays within reach as the attribute `__wrapped__`.
    """

    @functools.wraps(plain)
    def function(*args, **kwargs):
        if _enabled:
            kernel = _kernel(plain.__name__)
            result = None if kernel is None else kernel(*args, **kwargs)
            if result is not None:
                return result
        return plain(*args, **kwargs)

    return function


def _kernel(name):
    """Returns the backend's kernel of that name, or None."""
    # A dictionary and not `functools.cache`, which torch.compile looks through.
    if name not in _kernels:
        _kernels[name] = _load(name)
    return _kernels[name]


def _load(name):
    module = f"{__name__}.{keras.backend.backend()}"
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return None
