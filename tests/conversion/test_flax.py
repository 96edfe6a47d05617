"""Flax's modules into our layers: the modules themselves are the oracle.

The tests run where JAX is the backend, since there Flax is installed.
"""

import doctest
import importlib

import keras
import numpy as np
import pytest

from keras_norm.conversion import from_flax
from tests.conversion import models
from tests.gradients import numpy
from tests.oracle import error

if keras.backend.backend() != "jax":
    pytest.skip("Flax is the framework of another run", allow_module_level=True)

from flax import nnx

# float32's rounding; Flax computes the variance as E[x^2] - E[x]^2. Measured: below 1e-6.
TOLERANCE = 1e-5
RNGS = nnx.Rngs(0)
MODULES = {
    "BatchNorm": (nnx.BatchNorm(6, momentum=0.7, rngs=RNGS), (5, 4, 6)),
    "BatchNorm first": (nnx.BatchNorm(6, axis=1, epsilon=1e-2, rngs=RNGS), (5, 6, 4)),
    "BatchNorm plain": (nnx.BatchNorm(6, use_bias=False, use_scale=False, rngs=RNGS), (5, 6)),
    "LayerNorm": (nnx.LayerNorm(6, rngs=RNGS), (5, 4, 6)),
    "LayerNorm of two axes": (nnx.LayerNorm(6, reduction_axes=(1, 2), rngs=RNGS), (5, 4, 6)),
    "LayerNorm without bias": (nnx.LayerNorm(6, use_bias=False, rngs=RNGS), (5, 6)),
    "GroupNorm": (nnx.GroupNorm(6, num_groups=3, epsilon=1e-2, rngs=RNGS), (5, 4, 4, 6)),
    "GroupNorm by size": (
        nnx.GroupNorm(6, num_groups=None, group_size=3, use_scale=False, rngs=RNGS),
        (5, 4, 6),
    ),
    "InstanceNorm": (nnx.InstanceNorm(6, rngs=RNGS), (5, 4, 4, 6)),
    "RMSNorm": (nnx.RMSNorm(6, epsilon=1e-2, rngs=RNGS), (5, 4, 6)),
    "RMSNorm plain": (nnx.RMSNorm(6, use_scale=False, rngs=RNGS), (5, 6)),
    "mixed precision": (nnx.LayerNorm(6, dtype="bfloat16", rngs=RNGS), (5, 6)),
}


def shaken(module):
    """Returns the module with values that no initializer gives."""
    rng = np.random.default_rng(0)
    for name in ("scale", "bias", "mean", "var"):
        variable = getattr(module, name, None)
        if variable is not None:
            variable[...] = rng.uniform(0.5, 1.5, variable.shape).astype("float32")
    return module


@pytest.mark.parametrize("name", MODULES)
def test_outputs_are_equal(name):
    module, shape = MODULES[name]
    module = shaken(module)
    x = models.batch(*shape)
    layer = from_flax(module)
    if not isinstance(module, nnx.BatchNorm):
        found, expected = layer(x), np.asarray(module(x))
        assert keras.backend.standardize_dtype(found.dtype) == expected.dtype.name
        found = keras.ops.convert_to_numpy(keras.ops.cast(found, "float32"))
        # An output of bfloat16 may be rounded the other way.
        tolerance = TOLERANCE if expected.dtype == "float32" else 2**-8
        assert error(found, expected.astype("float32")) < tolerance
        return
    for training in (False, True, False):  # the last call uses the statistics that training updated
        expected = np.asarray(module(x, use_running_average=not training))
        assert error(numpy(layer(x, training=training)), expected) < TOLERANCE
    for variable, theirs in ((layer.moving_mean, module.mean), (layer.moving_variance, module.var)):
        np.testing.assert_allclose(numpy(variable), np.asarray(theirs[...]), rtol=1e-5)


def test_modules_without_an_equal_are_refused():
    with pytest.raises(ValueError, match=r"BatchNorm cannot be converted. Argument `axis_name`"):
        from_flax(nnx.BatchNorm(4, axis_name="devices", rngs=RNGS))
    with pytest.raises(
        ValueError, match=r"GroupNorm cannot be converted. Argument `reduction_axes`"
    ):
        from_flax(nnx.GroupNorm(4, 2, reduction_axes=(0, 1), rngs=RNGS))
    with pytest.raises(ValueError, match=r"LayerNorm cannot be converted. Argument `param_dtype`"):
        from_flax(nnx.LayerNorm(4, dtype="float32", param_dtype="bfloat16", rngs=RNGS))
    with pytest.raises(TypeError, match=r"`module` must be a BatchNorm, LayerNorm, GroupNorm"):
        from_flax(nnx.Linear(4, 4, rngs=RNGS))


def test_examples():
    module = importlib.import_module("keras_norm.conversion.flax")
    assert doctest.testmod(module).failed == 0
