"""PyTorch's modules into our layers and back: the modules themselves are the oracle.

The tests run where PyTorch is the backend, since there it is installed.
"""

import doctest
import importlib

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.conversion import from_torch, to_torch
from tests.conversion import models
from tests.gradients import numpy
from tests.oracle import error

if keras.backend.backend() != "torch":
    pytest.skip("PyTorch is the framework of another run", allow_module_level=True)

import torch
from torch import nn

# float32's rounding, with different orders of summation. Measured: below 5e-7.
TOLERANCE = 2e-6
MODULES = {
    "BatchNorm1d": (nn.BatchNorm1d(6, momentum=0.3), (5, 6)),
    "BatchNorm1d sequence": (nn.BatchNorm1d(6, eps=1e-2), (5, 6, 4)),
    "BatchNorm2d": (nn.BatchNorm2d(6, affine=False), (5, 6, 4, 3)),
    "BatchNorm3d": (nn.BatchNorm3d(6), (5, 6, 2, 3, 2)),
    "LayerNorm": (nn.LayerNorm(4, eps=1e-3), (5, 6, 4)),
    "LayerNorm of two axes": (nn.LayerNorm([6, 4]), (5, 2, 6, 4)),
    "LayerNorm without bias": (nn.LayerNorm(4, bias=False), (5, 4)),
    "LayerNorm plain": (nn.LayerNorm(4, elementwise_affine=False), (5, 4)),
    "GroupNorm": (nn.GroupNorm(3, 6), (5, 6, 4, 4)),
    "GroupNorm plain": (nn.GroupNorm(2, 6, affine=False), (5, 6, 4)),
    "InstanceNorm1d": (nn.InstanceNorm1d(6), (5, 6, 4)),
    "InstanceNorm2d": (nn.InstanceNorm2d(6, affine=True, eps=1e-2), (5, 6, 4, 4)),
    "InstanceNorm3d": (nn.InstanceNorm3d(6), (5, 6, 2, 3, 2)),
}


def shaken(module):
    """Returns the module with values that no initializer gives."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dtype.is_floating_point:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


def run(module, x, training):
    module.train(training)
    return module(torch.from_numpy(x)).detach().numpy()


@pytest.mark.parametrize("name", MODULES)
def test_there_and_back(name):
    module, shape = MODULES[name]
    module = shaken(module)
    x = models.batch(*shape)
    layer = from_torch(module)
    layer(x)
    back = to_torch(layer)
    # An InstanceNorm comes back as the GroupNorm that is equal to it.
    assert type(back) is type(module) or isinstance(back, nn.GroupNorm)
    for training in (False, True, False):  # the last sees what training made of the statistics
        old = {k: v.clone() for k, v in module.named_buffers()}
        expected = run(module, x, training)
        assert error(numpy(layer(x, training=training) if old else layer(x)), expected) < TOLERANCE
        assert error(run(back, x, training), expected) < TOLERANCE
        if training and old:
            check_statistics(module, layer, x, old)
            return  # from here on the variances differ, as the docstring says


def check_statistics(module, layer, x, old):
    """Means move alike; variances differ by Bessel's factor in what the batch brings."""
    np.testing.assert_allclose(numpy(layer.moving_mean), module.running_mean.numpy(), rtol=1e-5)
    values = x.size // x.shape[1]
    kept = old["running_var"].numpy() * (1 - module.momentum)
    theirs = module.running_var.numpy() - kept
    ours = numpy(layer.moving_variance) - kept
    np.testing.assert_allclose(ours, theirs * (values - 1) / values, rtol=1e-4)


def test_arguments_and_values_are_taken_over():
    module = shaken(nn.BatchNorm2d(3, eps=1e-3, momentum=0.25))
    layer = from_torch(module)
    assert (layer.axis, layer.epsilon, layer.momentum) == (1, 1e-3, 0.75)
    for variable, tensor in (
        (layer.gamma, module.weight),
        (layer.beta, module.bias),
        (layer.moving_mean, module.running_mean),
        (layer.moving_variance, module.running_var),
    ):
        np.testing.assert_array_equal(numpy(variable), tensor.detach().numpy())
    layer = from_torch(nn.GroupNorm(3, 6).double())
    layer(np.zeros((2, 6, 4)))
    assert (layer.groups, layer.axis, layer.gamma.dtype) == (3, 1, "float64")
    assert not from_torch(nn.LayerNorm(3, bias=False)).center


def test_layers_of_other_origin_become_modules():
    for layer, shape, kind in (
        (keras_norm.BatchNormalization(scale=False), (5, 6), nn.BatchNorm1d),
        (keras_norm.GroupNormalization("channel-wise", axis=1), (5, 6, 4), nn.GroupNorm),
        (keras_norm.GroupNormalization("all-channels", axis=1), (5, 6, 4), nn.GroupNorm),
        (keras_norm.LayerNormalization(axis=[1, 2]), (5, 6, 4), nn.LayerNorm),
    ):
        x = models.batch(*shape)
        layer(x)
        models.shake(layer)
        module = to_torch(layer)
        assert type(module) is kind
        for training in (False, True):
            arguments = {"training": training} if kind is nn.BatchNorm1d else {}
            expected = numpy(layer(x, **arguments))
            assert error(run(module, x, training), expected) < TOLERANCE
    frozen = keras_norm.GroupNormalization(2, axis=1, trainable=False, center=False)
    frozen.build((None, 4, 3))
    assert not any(p.requires_grad for p in to_torch(frozen).parameters())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("scale", [True, False])
def test_modules_run_in_the_dtype_of_the_layer(dtype, scale):
    x = torch.ones(3, 4, 2, dtype=getattr(torch, dtype))
    for layer in (
        keras_norm.BatchNormalization(axis=1, scale=scale, dtype=dtype),
        keras_norm.GroupNormalization(2, axis=1, scale=scale, dtype=dtype),
        keras_norm.LayerNormalization(reduction_axes=-1, scale=scale, dtype=dtype),
    ):
        layer.build((None, 4, 2))
        assert to_torch(layer)(x).dtype == x.dtype


def test_synchronized():
    module = shaken(nn.SyncBatchNorm(6))
    layer = from_torch(module)
    assert layer.synchronized
    x = models.batch(5, 6, 4)
    assert error(numpy(layer(x)), run(module, x, training=False)) < TOLERANCE
    assert isinstance(to_torch(layer), nn.SyncBatchNorm)


@pytest.mark.parametrize(
    ("module", "argument"),
    [
        (nn.BatchNorm1d(3, momentum=None), "momentum"),
        (nn.BatchNorm1d(3, track_running_stats=False), "track_running_stats"),
        (nn.InstanceNorm1d(3, track_running_stats=True), "track_running_stats"),
    ],
)
def test_modules_without_an_equal_are_refused(module, argument):
    with pytest.raises(ValueError, match=rf"cannot be converted. Argument `{argument}`"):
        from_torch(module)
    with pytest.raises(TypeError, match=r"`module` must be a BatchNorm1d"):
        from_torch(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("layer", "shape", "problem"),
    [
        (keras_norm.BatchNormalization(name="it"), (2, 5, 3), "`axis`"),
        (keras_norm.GroupNormalization(3, name="it"), (2, 5, 3), "`axis`"),
        (keras_norm.BatchNormalization(1, variance_momentum=0.5, name="it"), (2, 3), "`variance_m"),
        (keras_norm.LayerNormalization(name="it"), (2, 5, 3), "`reduction_axes`"),
        (keras_norm.LayerNormalization(1, reduction_axes=1, name="it"), (2, 5, 3), "last axes"),
        (keras_norm.BatchNormalization(1, name="it"), (2, 3, 1, 1, 1, 1), "rank 2 to 5"),
        (keras_norm.LayerNormalization(name="it"), None, "must be built"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_layers_without_an_equal_are_refused(layer, shape, problem):
    if shape is not None:
        layer.build(shape)
    with pytest.raises(ValueError, match=rf"Layer 'it' .*{problem}"):
        to_torch(layer)
    with pytest.raises(TypeError, match=r"`layer` must be a BatchNormalization"):
        to_torch(keras.layers.BatchNormalization())


def test_examples():
    module = importlib.import_module("keras_norm.conversion.torch")
    assert doctest.testmod(module).failed == 0
