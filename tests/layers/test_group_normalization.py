import keras
import numpy as np
import pytest

from keras_norm import GroupNormalization, LayerNormalization
from tests import oracle
from tests.gradients import numpy


def data(shape, mean=3.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype("float32")


@pytest.mark.parametrize("groups", [1, 2, 3, 6, "all-channels", "channel-wise", -1])
@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_groups(groups, axis):
    x = data((2, 5, 4, 6))
    number = {"all-channels": 1, "channel-wise": 6, -1: 6}.get(groups, groups)
    gamma = data((6,), 1, 1)
    parts = [oracle.normalize(part, (1, 2, 3))[0] for part in np.split(x, number, -1)]
    target = np.moveaxis(np.concatenate(parts, -1) * gamma, -1, axis)
    layer = GroupNormalization(groups, axis=axis, gamma_initializer=gamma)
    y = layer(np.ascontiguousarray(np.moveaxis(x, -1, axis)))
    np.testing.assert_allclose(numpy(y), target, atol=5e-6)
    assert layer.groups == groups


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_mask_of_keras_masking_on_channels_first_input(groups):
    # It is made for (batch, time, features), so that here it marks channels.
    x = data((2, 4, 6))
    x[0, 1:] = 0
    layer = GroupNormalization(groups, axis=1)
    inputs = keras.Input((4, 6))
    y = numpy(keras.Model(inputs, layer(keras.layers.Masking()(inputs)))(x))
    weights = (x != 0).reshape(2, groups, 4 // groups, 6)
    expected = oracle.normalize(x.reshape(weights.shape), (2, 3), weights=weights)[0]
    real = x != 0
    np.testing.assert_allclose(y[real], expected.reshape(x.shape)[real], atol=5e-6)


def test_one_group_is_layer_normalization():
    x = data((2, 3, 4))
    np.testing.assert_allclose(
        numpy(GroupNormalization("all-channels")(x)), numpy(LayerNormalization()(x)), atol=1e-6
    )


def test_channel_wise_on_features_gives_beta():
    # A set is then a single number, which is its own mean.
    y = GroupNormalization("channel-wise", beta_initializer=[1.0, 2.0])(data((3, 2)))
    np.testing.assert_array_equal(numpy(y), [[1, 2]] * 3)
