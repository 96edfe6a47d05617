"""Moving averages against numbers worked out by hand."""

import keras
import numpy as np
import pytest

from keras_norm import ops


@pytest.mark.parametrize(("count", "mean"), [(6.0, 5.0), (0.0, 5.0), (6.0, np.nan), (6.0, np.inf)])
def test_moving_averages(count, mean):
    tensor = keras.ops.convert_to_tensor
    averages = [tensor(np.float32([1, 2])), tensor(np.float32([3, 4]))]
    mean, residual, variance = (np.float32(v).reshape(1, 2) for v in ([mean, 1], [0.5, 0], [7, 8]))
    moments = ops.Moments(*map(tensor, (np.float32(count), mean, residual, variance)))
    found = ops.moving_averages(averages, moments, (0.9, 0.25))
    is_used = count > 0 and np.isfinite(mean).all()
    by_hand = [[1.45, 1.9], [6.0, 7.0]] if is_used else [[1, 2], [3, 4]]
    np.testing.assert_allclose([keras.ops.convert_to_numpy(v) for v in found], by_hand, rtol=1e-6)
