"""Executors: fast implementations of functions in `keras_norm.ops`, one module per backend.

Importing this package registers the executors of the current backend with `ops.registry`. An
executor returns the same results, gradients and second derivatives as the plain function, and
declines the problems that it cannot solve. Without this folder everything works, but more slowly.

An executor binds the private symbols of its framework at import; Triton's are imported at the first
call. If a symbol is missing, the import fails, a warning says so, and the plain functions are used.
"""

import importlib
import warnings

import keras

from keras_norm.ops.registry import is_enabled, set_enabled

__all__ = ["is_enabled", "set_enabled"]

# The modules of each backend, in order of precedence.
MODULES = {
    "jax": ["jax"],
    "tensorflow": ["tensorflow"],
    "torch": ["triton", "torch"],
}


def _load():
    """Imports the executors of the current backend, which register themselves."""
    for name in MODULES.get(keras.backend.backend(), ()):
        try:
            importlib.import_module(f"{__name__}.{name}")
        except Exception as error:  # versions differ in more than missing symbols
            warnings.warn(
                f"keras_norm runs without its fast implementation '{name}', which the installed "
                f"version of the framework does not support ({error!r})",
                stacklevel=2,
            )


_load()
