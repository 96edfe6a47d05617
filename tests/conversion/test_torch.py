"""PyTorch's modules into our layers and back: the modules themselves are the oracle.

The tests run where PyTorch is the backend, since there it is installed.
"""

import doctest
import importlib

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.conversion import from_torch, register, to_torch
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
    for training in (False, True, False):  # the last call uses the statistics that training updated
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


class Frozen(nn.BatchNorm2d):
    """A harmless derived class: `forward` is the parent's."""

    def train(self, mode=True):
        return super().train(False)


class Activated(nn.BatchNorm2d):
    """Normalization, then activation, as timm's BatchNormAct2d."""

    def forward(self, x):
        return torch.relu(super().forward(x))


def test_derived_classes_count_as_what_they_run():
    module = shaken(Frozen(3))
    x = models.batch(2, 3, 4, 4)
    assert error(numpy(from_torch(module)(x)), run(module, x, False)) < TOLERANCE
    with pytest.raises(
        TypeError, match=r"Activated is derived from .*BatchNorm2d and overrides `f"
    ):
        from_torch(Activated(3))
    module = nn.GroupNorm(1, 3)
    module.forward = lambda x: x
    with pytest.raises(TypeError, match=r"derived from .*GroupNorm and overrides `forward`"):
        from_torch(module)
    register(Activated, lambda module: keras.Sequential([keras.layers.ReLU()]))
    assert type(from_torch(Activated(3))) is keras.Sequential

    class Doubled(keras_norm.BatchNormalization):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs, training=training)

    class Named(keras_norm.BatchNormalization):
        pass

    for cls in (Doubled, Named):
        layer = cls(axis=1)
        layer.build((None, 3))
        if cls is Named:
            assert type(to_torch(layer)) is nn.BatchNorm1d
        else:
            with pytest.raises(TypeError, match=r"Doubled.*overrides `call`"):
                to_torch(layer)


@pytest.mark.parametrize(("change", "said"), models.CHANGES)
def test_layers_that_do_more_than_their_class_are_refused(change, said):
    layer = keras_norm.BatchNormalization(axis=1)
    layer.build((None, 3))
    change(layer)
    with pytest.raises(TypeError, match=f"{said}, so its equivalent is unknown"):
        to_torch(layer)


def test_modules_whose_values_are_not_known():
    with pytest.raises(ValueError, match=r"LazyBatchNorm2d has no values yet: call it on a batch"):
        from_torch(nn.LazyBatchNorm2d())
    with pytest.raises(ValueError, match=r"is on the meta device"):
        from_torch(nn.LayerNorm(3, device="meta"))
    module = nn.LayerNorm(3)
    torch.nn.utils.parametrize.register_parametrization(module, "weight", nn.Softplus())
    with pytest.raises(ValueError, match=r"parametrizations .of weight.*remove_parametrizations"):
        from_torch(module)
    module = nn.BatchNorm2d(3)
    module.register_forward_hook(lambda module, inputs, outputs: 2 * outputs)
    with pytest.warns(UserWarning, match=r"is converted without its forward hooks"):
        from_torch(module)


def test_rms_norm():
    for module in (nn.RMSNorm(4), nn.RMSNorm([3, 4], eps=1e-2), nn.RMSNorm(4, 0.1, False)):
        x = models.batch(2, 3, 4)
        shaken(module)
        layer = from_torch(module)
        assert error(numpy(layer(x)), run(module, x, False)) < TOLERANCE
        assert error(run(to_torch(layer), x, True), run(module, x, True)) < TOLERANCE
    layer = keras_norm.RMSNormalization(gamma_offset=1.0, gamma_initializer=[0.0, 1.0, 2.0, 3.0])
    expected = numpy(layer(x))
    assert error(run(to_torch(layer), x, False), expected) < TOLERANCE
    assert to_torch(layer).weight.tolist() == [1.0, 2.0, 3.0, 4.0]
    layer = keras_norm.RMSNormalization(center=True)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"`center` must be False"):
        to_torch(layer)
    for dtype in (torch.float32, torch.float64):
        layer = from_torch(nn.RMSNorm(4, dtype=dtype))
        assert layer.epsilon == torch.finfo(dtype).eps
    assert type(from_torch(nn.InstanceNorm1d(3))) is keras_norm.InstanceNormalization


def test_frozen_layers_with_a_trained_gamma():
    layer = keras_norm.BatchNormalization(axis=1)
    layer.build((None, 3))
    layer.trainable = False
    layer.gamma.trainable = True  # as BatchNormalization's docstring advises
    module = to_torch(layer)
    assert (module.weight.requires_grad, module.bias.requires_grad) == (True, False)
    model = keras.Sequential([keras.Input((3,)), layer])
    assert [v.name for v in model.trainable_variables] == ["gamma"]


def test_examples():
    module = importlib.import_module("keras_norm.conversion.torch")
    assert doctest.testmod(module).failed == 0
