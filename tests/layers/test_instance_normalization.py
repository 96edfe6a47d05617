import keras
import numpy as np
import pytest

from keras_norm import GroupNormalization, InstanceNormalization
from tests import oracle
from tests.gradients import numpy


def data(shape, mean=3.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype("float32")


@pytest.mark.parametrize("axis", [-1, 1])
def test_each_channel_of_each_sample_is_a_set(axis):
    x = data((2, 5, 4, 6))
    gamma = data((6,), 1, 1)
    layer = InstanceNormalization(axis=axis, gamma_initializer=gamma)
    y = layer(np.ascontiguousarray(np.moveaxis(x, -1, axis)))
    expected = np.moveaxis(oracle.normalize(x, (1, 2), gamma=gamma)[0], -1, axis)
    np.testing.assert_allclose(numpy(y), expected, atol=5e-6)


def test_is_channel_wise_group_normalization():
    x = data((2, 7, 3))
    y, same = InstanceNormalization()(x), GroupNormalization("channel-wise")(x)
    np.testing.assert_array_equal(numpy(y), numpy(same))


def test_is_saved_under_its_name(tmp_path):
    x = data((2, 7, 3))
    layer = InstanceNormalization(name="norm", beta_initializer=[1.0, 2.0, 3.0])
    model = keras.Sequential([keras.Input((None, 3)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("norm")) is InstanceNormalization
    assert "groups" not in layer.get_config()
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


def test_takes_no_groups():
    with pytest.raises(ValueError, match=r"`GroupNormalization`.*Received: groups=2"):
        InstanceNormalization(groups=2)


def test_no_channels():
    assert InstanceNormalization()(np.ones((2, 3, 0), "float32")).shape == (2, 3, 0)
