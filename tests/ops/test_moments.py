import numpy as np
import pytest
from keras import ops

from keras_norm.ops import Moments, merge, moments
from tests import oracle
from tests.gradients import numpy


def data(shape, mean=0.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype("float32")


def test_hand_worked():
    found = moments(ops.convert_to_tensor([[1.0, 3.0, 8.0], [2.0, 2.0, 2.0]]), [1])
    np.testing.assert_allclose(numpy(found.mean), [[4.0], [2.0]], rtol=1e-7)
    np.testing.assert_allclose(numpy(found.variance), [[26 / 3], [0.0]], rtol=1e-6)
    assert float(found.count) == 3


@pytest.mark.parametrize("mean", [0, 1e2, 1e3, 1e4, 1e5, -1e5])
def test_mean_in_two_parts_and_variance_are_exact(mean):
    x = data((40, 50, 3), mean)
    found = moments(ops.convert_to_tensor(x), [0, 1])
    two_parts = numpy(found.shift).astype("float64") + numpy(found.residual)
    exact = x.astype("float64")
    # The mean to 1e-7 deviations, which no single float32 can hold at 1e5.
    assert np.abs(two_parts - exact.mean((0, 1), keepdims=True)).max() < 2e-7
    assert oracle.error(numpy(found.variance), exact.var((0, 1), keepdims=True)) < 5e-7


def test_weights_keep_elements_out_whatever_they_are():
    x = data((4, 6, 3), 1e3)
    weights = (np.random.default_rng(1).random((4, 6, 1)) < 0.5).astype("float32")
    weights[2] = 0
    _, mean, variance = oracle.normalize(x, [1], weights=weights)
    spoiled = np.where(weights > 0, x, np.float32("nan"))
    found = moments(ops.convert_to_tensor(spoiled), [1], ops.convert_to_tensor(weights))
    np.testing.assert_allclose(numpy(found.mean), mean, rtol=1e-6)
    np.testing.assert_allclose(numpy(found.variance), variance, rtol=1e-5, atol=1e-12)
    np.testing.assert_array_equal(numpy(found.count), weights.sum(1, keepdims=True))
    for field in found:
        assert np.all(numpy(field)[2] == 0)


def test_no_variance_is_negative():
    values = np.random.default_rng(0).uniform(-1e3, 1e3, (2000, 1)).astype("float32")
    found = moments(ops.convert_to_tensor(np.tile(values, 7)), [1])
    assert numpy(found.variance).min() >= 0


def test_no_elements_at_all():
    found = moments(ops.zeros((0, 3)), [0])
    assert float(found.count) == 0
    np.testing.assert_array_equal(numpy(found.mean), [[0, 0, 0]])
    np.testing.assert_array_equal(numpy(found.variance), [[0, 0, 0]])


@pytest.mark.parametrize("mean", [0, 1e5])
def test_merge_of_uneven_parts_is_the_whole(mean):
    parts = [data((n, 3), mean + n, seed=n) for n in (1, 7, 32, 100)]
    found = [moments(ops.convert_to_tensor(part), [0]) for part in parts]
    # An empty part counts for nothing.
    found.append(Moments(*(ops.zeros(s) for s in ((), (1, 3), (1, 3), (1, 3)))))
    stacked = Moments(
        ops.reshape(ops.stack([m.count for m in found]), (-1, 1)),
        *(ops.concatenate([m[i] for m in found], axis=0) for i in (1, 2, 3)),
    )
    union = merge(stacked, [0])
    whole = np.concatenate(parts).astype("float64")
    two_parts = numpy(union.shift).astype("float64") + numpy(union.residual)
    # Relative to the deviation, 39 here.
    assert np.abs(two_parts - whole.mean(0)).max() < 39 * 2e-7
    assert oracle.error(numpy(union.variance)[0], whole.var(0)) < 5e-7
    np.testing.assert_array_equal(numpy(union.count), [[140]])


def test_merge_of_merges_is_the_merge():
    x = ops.convert_to_tensor(data((6, 5, 4, 3), 1e3))
    at_once = moments(x, [0, 1, 2])
    in_steps = merge(merge(moments(x, [2]), [0]), [1])
    for found in (at_once, in_steps):
        two_parts = numpy(found.shift).astype("float64") + numpy(found.residual)
        assert np.abs(two_parts - numpy(x).astype("float64").mean((0, 1, 2))).max() < 2e-7
    np.testing.assert_allclose(numpy(at_once.variance), numpy(in_steps.variance), rtol=1e-6)
    assert float(at_once.count) == float(in_steps.count) == 120
