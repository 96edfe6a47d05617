"""Executors: fast implementations of functions in `keras_norm.ops`, one module a backend.

Importing this package registers the executors of the current backend with `ops.registry`. Each has
the results, gradients and gradients of gradients of the plain functions, and declines the problems
that it does not take. Without this folder everything works, more slowly.

An executor binds the private symbols of its framework when its module is imported. Where one is
gone, the module cannot be imported, a warning says so, and the plain functions answer.
"""

import importlib
import warnings

import keras

from keras_norm.ops.registry import is_enabled, set_enabled

__all__ = ["is_enabled", "set_enabled"]

# The modules of each backend, in the order in which they are asked.
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
        except (ImportError, AttributeError) as error:
            warnings.warn(
                f"keras_norm runs without its fast implementation '{name}', as the installed "
                f"version of the framework lacks what it uses: {error}",
                stacklevel=2,
            )


_load()
