"""Fast versions of functions in `keras_norm.ops`, a module a backend, and where one is chosen.

A kernel has the name and the signature of the plain function that it stands in for, and its
results, gradients and gradients of gradients. It may decline a call by returning None; the plain
function then answers. So kernels change speed and nothing else.

They are on unless the environment variable `KERAS_NORM_KERNELS` is 0 when the package is imported;
`set_enabled` switches them during a run. As with every setting that is read while a step is
traced, compile again after a change.
"""

import functools
import importlib
import os

import keras

_enabled = os.environ.get("KERAS_NORM_KERNELS", "1") != "0"
# The backend's kernels, by the names of the functions that may have one.
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
    name = plain.__name__
    _kernels[name] = None

    @functools.wraps(plain)
    def function(*args, **kwargs):
        if _enabled:
            kernel = _kernels[name]
            result = None if kernel is None else kernel(*args, **kwargs)
            if result is not None:
                return result
        return plain(*args, **kwargs)

    return function


def load():
    """Looks up the backend's kernels, once the functions that they use are complete.

    Not when one is first called, as that may be in a function that torch.compile traces.
    """
    path = f"{__name__}.{keras.backend.backend()}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return
    _kernels.update({name: getattr(module, name, None) for name in _kernels})
