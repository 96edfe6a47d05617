"""RMS normalization, against the formula in float64 and the layers of other packages."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import ops

from keras_norm import RMSNormalization
from tests import oracle
from tests.gradients import numpy, vjp


def data(shape, mean=3.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype("float32")


@pytest.mark.parametrize(
    ("axis", "reduction_axes", "reduced", "parameter_shape"),
    [
        (-1, None, (3,), (6,)),
        (1, None, (1,), (4,)),
        ([-1, -2], None, (2, 3), (5, 6)),
        (-1, [1, 2, 3], (1, 2, 3), (6,)),
        ([1, 3], [2], (2,), (4, 6)),
    ],
)
def test_axes(axis, reduction_axes, reduced, parameter_shape):
    x = data((3, 4, 5, 6))
    layer = RMSNormalization(
        axis=axis,
        reduction_axes=reduction_axes,
        center=True,
        gamma_initializer=data(parameter_shape, 1, 1),
        beta_initializer=data(parameter_shape, 0, 2),
    )
    y = numpy(layer(x))
    assert layer.gamma.shape == layer.beta.shape == parameter_shape
    axes = sorted(a % 4 for a in (axis if isinstance(axis, list) else [axis]))
    shape = [n if a in axes else 1 for a, n in enumerate(x.shape)]
    gamma, beta = (numpy(v).reshape(shape) for v in (layer.gamma, layer.beta))
    expected = oracle.normalize(x, reduced, 1e-6, gamma, beta, centered=False)[0]
    np.testing.assert_allclose(y, expected, atol=2e-6)


@pytest.mark.parametrize("mean", [0.0, 3.0, 1e5])
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_and_gradients(mean, masked):
    x, upstream = data((4, 5, 64), mean), data((4, 5, 64), 0, 1)
    gamma = data((64,), 1, 2)
    mask = np.arange(5) < np.array([[5], [3], [1], [0]])
    weights = mask[..., None].astype("float32") if masked else None
    layer = RMSNormalization(gamma_initializer=gamma)
    layer.build(x.shape)
    y, to_x = vjp(lambda x: layer(x, mask=mask if masked else None), [x], upstream)
    expected = oracle.normalize(x, [2], 1e-6, gamma, weights=weights, centered=False)[0]
    expected_to_x, _, _, scale = oracle.gradients(
        x, [2], upstream, 1e-6, gamma, weights, centered=False
    )
    # The promised error; float32's rounding gives 1e-7.
    assert oracle.error(y, expected) < 2e-6
    assert oracle.error(to_x, expected_to_x, scale) < 2e-6


def test_offset_of_gamma():
    """Gemma's layer: zeros to start with, and 1 + gamma."""
    x, gamma = data((3, 8)), data((8,), 0, 1)
    standard = oracle.normalize(x, [1], 1e-6, centered=False)[0]
    layer = RMSNormalization(gamma_offset=1.0, gamma_initializer="zeros")
    np.testing.assert_allclose(numpy(layer(x)), standard, atol=2e-6)
    layer.gamma.assign(gamma)
    np.testing.assert_allclose(numpy(layer(x)), standard * (1 + gamma), atol=2e-6)


def test_offset_of_gamma_is_added_in_float32():
    # In bfloat16, 1 + 2^-9 is 1.
    layer = RMSNormalization(gamma_offset=1.0, gamma_initializer=[2.0**-9] * 4, dtype="bfloat16")
    x = np.array([[1.0, 1, 1, 1]], "float32")
    scale, _ = (layer.build(x.shape), layer._scale_and_offset([1, 4], "float32"))[1]
    np.testing.assert_array_equal(numpy(scale), [[1 + 2.0**-9] * 4])


def test_offset_needs_gamma():
    with pytest.raises(ValueError, match=r"`gamma_offset`.*Received: gamma_offset=1.0, scale=F"):
        RMSNormalization(gamma_offset=1.0, scale=False)


def test_has_gamma_alone_by_default():
    layer = RMSNormalization()
    layer.build((None, 4))
    assert [v.name for v in layer.weights] == ["gamma"]
    layer = RMSNormalization(scale=False)
    layer.build((None, 4))
    assert layer.weights == []


def test_equals_keras():
    x = data((3, 5, 8))
    for arguments in ({}, {"axis": [1, 2]}, {"epsilon": 0.1}):
        theirs = keras.layers.RMSNormalization(**arguments)
        ours = RMSNormalization.from_config(theirs.get_config())
        np.testing.assert_allclose(numpy(ours(x)), numpy(theirs(x)), atol=2e-6)


def test_each_step_is_on_its_own():
    x = data((1, 4, 3))
    later = x.copy()
    later[0, 3] += 10
    layer = RMSNormalization()
    np.testing.assert_array_equal(numpy(layer(x))[0, :3], numpy(layer(later))[0, :3])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_16_bits(policy):
    x = data((4, 512), 0) * 300  # squares do not fit a float16
    y = numpy(ops.cast(RMSNormalization(dtype=policy)(x), "float32"))
    expected = oracle.normalize(x, [1], 1e-6, centered=False)[0]
    np.testing.assert_allclose(y, expected, rtol=2**-8, atol=1e-5)


if keras.backend.backend() == "torch":

    def test_equals_torch():
        import torch

        x = data((3, 5, 8))
        theirs = torch.nn.RMSNorm(8, eps=1e-5)
        with torch.no_grad():
            theirs.weight.copy_(torch.tensor(data((8,), 1, 1)))
        ours = RMSNormalization(epsilon=1e-5, gamma_initializer=theirs.weight)
        expected = theirs(torch.tensor(x)).detach()
        np.testing.assert_allclose(numpy(ours(x)), expected, atol=2e-6)


if importlib.util.find_spec("flax"):

    def test_equals_flax():
        from flax import nnx

        x = data((3, 5, 8))
        theirs = nnx.RMSNorm(8, rngs=nnx.Rngs(0))
        theirs.scale[...] = data((8,), 1, 1)
        ours = RMSNormalization(epsilon=1e-6, gamma_initializer=np.asarray(theirs.scale[...]))
        np.testing.assert_allclose(numpy(ours(x)), np.asarray(theirs(x)), atol=2e-6)
