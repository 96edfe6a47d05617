"""The merge over replicas, simulated in one process."""

import keras
import numpy as np
import pytest

from benchmarks.replicas import errors, moments_of, ring, simulate, tree
from keras_norm import ops
from tests.gradients import numpy

# Half of the promise of the layers, as the moments of each replica have errors too. Sent in one
# part, 4,096 squares that are added sequentially have errors of 2e-6 to 7e-6.
TOLERANCE = 1e-6
CHANNELS = 4


@pytest.mark.parametrize(
    ("replicas", "spread", "add"),
    [
        (2, 0.0, ring),
        (2, 1e5, ring),
        (512, 1.0, ring),
        (512, 1e5, ring),
        (512, 1e5, tree),
        (4096, 0.0, ring),
    ],
)
def test_the_moments_of_the_union(replicas, spread, add):
    rng = np.random.default_rng(replicas)
    means = 1e5 + spread * rng.standard_normal(replicas)
    sizes = rng.integers(0, 5, replicas)
    sizes[0] = 3
    parts = [
        (mean + rng.standard_normal((size, CHANNELS))).astype("float32")
        for mean, size in zip(means, sizes, strict=True)
    ]
    found, messages = simulate([moments_of(part) for part in parts], add)
    assert max(errors(found, np.concatenate(parts))) < TOLERANCE
    assert float(numpy(found.count).squeeze()) == sizes.sum()
    # The size of a message does not depend on the number of replicas.
    assert messages == [CHANNELS + 1, 3 * CHANNELS]


def test_a_union_of_nothing_is_empty():
    found, _ = simulate([moments_of(np.zeros((0, CHANNELS), "float32"))] * 3, ring)
    for field in found:
        np.testing.assert_array_equal(numpy(field), np.zeros(field.shape))


def test_squares_too_large_to_be_split():
    parts = [moments_of(np.ones((2, CHANNELS), "float32")) for _ in range(2)]
    parts = [part._replace(variance=keras.ops.full((1, CHANNELS), 4e32)) for part in parts]
    found, _ = simulate(parts, ring)
    np.testing.assert_allclose(numpy(found.variance), 4e32, rtol=1e-6)


def test_nan_reaches_all():
    parts = [moments_of(np.ones((2, CHANNELS), "float32")) for _ in range(2)]
    parts[1] = parts[1]._replace(residual=keras.ops.full((1, CHANNELS), np.nan))
    found, _ = simulate(parts, ring)
    assert np.isnan(numpy(found.variance)).all()


def test_a_count_for_each_set():
    rng = np.random.default_rng(0)
    data = (1e4 + rng.standard_normal((3, 5, CHANNELS))).astype("float32")
    valid = rng.random(data.shape) < 0.6
    valid[1, :, 1] = valid[:, :, 2] = False
    convert = keras.ops.convert_to_tensor
    parts = [
        ops.moments(convert(x), (0,), convert(w.astype("float32")))
        for x, w in zip(data, valid, strict=True)
    ]
    found, messages = simulate(parts, ring)
    np.testing.assert_array_equal(numpy(found.count), valid.sum((0, 1))[None])
    for channel in (0, 1, 3):
        values = data[..., channel][valid[..., channel]].astype("float64")
        mean = float(numpy(found.shift)[0, channel]) + float(numpy(found.residual)[0, channel])
        assert abs(mean - values.mean()) < TOLERANCE
        assert abs(numpy(found.variance)[0, channel] / values.var() - 1) < TOLERANCE
    assert numpy(found.mean)[0, 2] == numpy(found.variance)[0, 2] == 0
    assert messages == [2 * CHANNELS, 3 * CHANNELS]
