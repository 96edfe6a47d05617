"""Prints the installed backends that see an accelerator."""

import importlib
import sys


def tensorflow(module):
    return module.config.list_physical_devices("GPU") or module.config.list_physical_devices("TPU")


def jax(module):
    return module.default_backend() != "cpu"


def torch(module):
    return module.accelerator.is_available()


if __name__ == "__main__":
    for sees in (tensorflow, jax, torch):
        try:
            backend = importlib.import_module(sees.__name__)
        except ImportError as error:
            print(f"{sees.__name__}: {error}", file=sys.stderr)
            continue
        if sees(backend):
            print(sees.__name__)
