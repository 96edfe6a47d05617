"""The public names: what there is, that it is documented, and that the examples run."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import keras_norm

FRAMEWORKS = {"tensorflow", "jax", "torch", "triton", "flax"}
# Modules that import a framework belong to that framework's process.
MODULES = [
    module.name
    for module in pkgutil.walk_packages(keras_norm.__path__, "keras_norm.")
    if not FRAMEWORKS.intersection(module.name.split("."))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", keras_norm.__all__)
def test_public_names_are_documented(name):
    assert getattr(keras_norm, name).__doc__.strip()


@pytest.mark.slow
def test_import_is_light():
    """Importing the package imports Keras and NumPy, and nothing that Keras does not."""
    code = (
        "import sys, keras; before = set(sys.modules); import keras_norm; "
        "print({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "{'keras_norm'}"
