import keras
import numpy as np
import pytest

from keras_norm import BatchNormalization
from tests.gradients import numpy


def data(shape, mean=0.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype("float32")


def statistics(layer):
    return numpy(layer.moving_mean), numpy(layer.moving_variance)


def test_moving_statistics_hand_worked():
    layer = BatchNormalization(momentum=0.75, variance_momentum=0.5)
    layer(np.array([[1.0, 10.0], [3.0, 10.0]], "float32"), training=True)
    mean, variance = statistics(layer)
    np.testing.assert_allclose(mean, [0.5, 2.5])  # 0.25 * (2, 10)
    np.testing.assert_allclose(variance, [1.0, 0.5])  # 0.5 * 1 + 0.5 * (1, 0)
    y = layer(np.array([[1.5, 2.5]], "float32"), training=False)
    np.testing.assert_allclose(numpy(y), [[1 / np.sqrt(1 + 1e-5), 0.0]], rtol=1e-6)


def test_variance_momentum_defaults_to_momentum():
    layer = BatchNormalization(momentum=0.5)
    assert layer.variance_momentum is None
    layer(np.array([[1.0], [3.0]], "float32"), training=True)
    np.testing.assert_allclose(statistics(layer), [[1.0], [1.0]])


@pytest.mark.parametrize("call", [{}, {"training": False}, {"training": None}])
def test_inference_uses_and_keeps_moving_statistics(call):
    layer = BatchNormalization(
        moving_mean_initializer=[1.0, 2.0], moving_variance_initializer=[4.0, 9.0], epsilon=1e-12
    )
    y = layer(np.array([[3.0, 8.0]], "float32"), **call)
    np.testing.assert_allclose(numpy(y), [[1.0, 2.0]], rtol=1e-6)
    np.testing.assert_array_equal(statistics(layer), [[1, 2], [4, 9]])


def test_frozen_layer_runs_in_inference():
    layer = BatchNormalization(trainable=False)
    x = data((5, 2), 7)
    np.testing.assert_allclose(numpy(layer(x, training=True)), x / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(statistics(layer), [[0, 0], [1, 1]])


@pytest.mark.parametrize(
    ("x", "mask"),
    [
        (np.zeros((0, 2)), None),
        (np.ones((3, 2)), np.zeros(3)),
        (np.array([[1, np.nan], [2, 3]]), None),
        (np.array([[1, np.inf], [2, 3]]), None),
        (np.array([[1e30, -1e30], [-1e30, 1e30]]), None),  # a variance beyond float32
    ],
    ids=["empty", "fully masked", "nan", "inf", "overflow"],
)
def test_moving_statistics_survive(x, mask):
    layer = BatchNormalization()
    layer(data((6, 2), 3), training=True)
    before = statistics(layer)
    layer(x.astype("float32"), training=True, mask=mask)
    np.testing.assert_array_equal(statistics(layer), before)
    layer(data((6, 2), 3, 1), training=True)
    assert np.all(np.isfinite(statistics(layer)))
    assert not np.array_equal(statistics(layer)[0], before[0])


def test_statistics_are_float32_under_float16():
    layer = BatchNormalization(dtype="float16", momentum=0)
    layer(np.array([[60000.0], [-60000.0]], "float16"), training=True)
    np.testing.assert_allclose(statistics(layer), [[0.0], [3.6e9]], rtol=1e-6)


def test_fit_moves_the_statistics_the_same_compiled_and_not():
    x, y = data((32, 4), 5), data((32, 1))
    found = []
    for options in ({"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": "auto"}):
        keras.utils.set_random_seed(1)
        layer = BatchNormalization()
        model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
        model.compile("sgd", "mse", **options)
        model.fit(x, y, batch_size=8, epochs=1, verbose=0, shuffle=False)
        found.append(statistics(layer))
    batches = x.astype("float64").reshape(4, 8, 4)
    mean, variance = np.zeros(4), np.ones(4)
    for batch in batches:
        mean = 0.9 * mean + 0.1 * batch.mean(0)
        variance = 0.9 * variance + 0.1 * batch.var(0)
    for moving_mean, moving_variance in found:
        np.testing.assert_allclose(moving_mean, mean, rtol=1e-5)
        np.testing.assert_allclose(moving_variance, variance, rtol=1e-5)


if keras.backend.backend() == "jax":

    def test_stateless_call():
        layer = BatchNormalization(momentum=0.5)
        layer.build((None, 1))
        values = (
            [v.value for v in layer.trainable_variables],
            [v.value for v in layer.non_trainable_variables],
        )
        x = np.array([[1.0], [3.0]], "float32")
        y, state = layer.stateless_call(*values, x, training=True)
        np.testing.assert_allclose(y, [[-1], [1]], rtol=1e-5)
        np.testing.assert_allclose(np.concatenate(state), [1.0, 1.0], rtol=1e-6)
        np.testing.assert_array_equal(statistics(layer), [[0.0], [1.0]])
