import numpy as np
import pytest

from keras_norm import LayerNormalization
from tests import oracle
from tests.gradients import numpy


def data(shape, mean=3.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype("float32")


@pytest.mark.parametrize(
    ("axis", "reduction_axes", "reduced", "parameter_shape"),
    [
        (-1, None, (1, 2, 3), (6,)),
        (1, None, (1, 2, 3), (4,)),
        (-1, -1, (3,), (6,)),
        ([-1, -2], [-1, -2], (2, 3), (5, 6)),
        ([1, 3], [2], (2,), (4, 6)),
        (2, [3, 1], (1, 3), (5,)),
        ([1, 2, 3], None, (1, 2, 3), (4, 5, 6)),
        ([0, 1, 2, 3], [0, 1, 2, 3], (0, 1, 2, 3), (3, 4, 5, 6)),
    ],
)
def test_axes(axis, reduction_axes, reduced, parameter_shape):
    x = data((3, 4, 5, 6))
    layer = LayerNormalization(
        axis=axis,
        reduction_axes=reduction_axes,
        gamma_initializer=data(parameter_shape, 1, 1),
        beta_initializer=data(parameter_shape, 0, 2),
    )
    y = numpy(layer(x))
    assert layer.gamma.shape == layer.beta.shape == parameter_shape
    axes = sorted(a % 4 for a in (axis if isinstance(axis, list) else [axis]))
    shape = [n if a in axes else 1 for a, n in enumerate(x.shape)]
    gamma, beta = (numpy(v).reshape(shape) for v in (layer.gamma, layer.beta))
    np.testing.assert_allclose(y, oracle.normalize(x, reduced, 1e-5, gamma, beta)[0], atol=5e-6)


def test_default_mixes_time_steps_and_the_channel_axis_does_not():
    x = data((1, 4, 3))
    later = x.copy()
    later[0, 3] += 10
    mixing, per_step = LayerNormalization(), LayerNormalization(reduction_axes=-1)
    assert not np.allclose(numpy(mixing(x))[0, 0], numpy(mixing(later))[0, 0])
    np.testing.assert_array_equal(numpy(per_step(x))[0, 0], numpy(per_step(later))[0, 0])


def test_masked_steps_give_beta_where_each_step_is_a_set():
    x = data((2, 3, 4))
    mask = np.array([[True, True, False], [False, True, True]])
    beta = data((4,), 0, 1)
    y = numpy(LayerNormalization(reduction_axes=-1, beta_initializer=beta)(x, mask=mask))
    np.testing.assert_allclose(y[mask], oracle.normalize(x[mask], [1], beta=beta)[0], atol=5e-6)
    np.testing.assert_array_equal(y[~mask], np.broadcast_to(beta, (2, 4)))


def test_mask_where_gamma_spans_several_axes():
    # The last one is the channel axis.
    x = data((2, 3, 3, 3))  # the mask would fit as one without axis 1, too
    mask = np.random.default_rng(1).random((2, 3, 3)) < 0.6
    layer = LayerNormalization(axis=[1, 3], reduction_axes=[2, 3])
    y = numpy(layer(x, mask=mask))
    weights = np.broadcast_to(mask[..., None], x.shape)
    expected = oracle.normalize(x, [2, 3], weights=weights.astype("float32"))[0]
    np.testing.assert_allclose(y[mask], expected[mask], atol=5e-6)


def test_works_on_other_ranks_after_build():
    layer = LayerNormalization(reduction_axes=-1)
    layer.build((2, 4))
    x = data((2, 3, 4))
    np.testing.assert_allclose(numpy(layer(x)), oracle.normalize(x, [2])[0], atol=5e-6)
