import keras
import numpy as np
import pytest
from keras import ops

from keras_norm.ops.blocks import LIMIT, Blocks
from tests.gradients import numpy


@pytest.mark.parametrize("size", [0, 1, LIMIT, LIMIT + 1, 1021, 4096, 99_991, 1_000_003])
def test_view_has_short_axes_and_comes_back(size):
    x = np.arange(size * 2, dtype="float32").reshape(size, 2)
    blocks = Blocks(x.shape, [0])
    view = blocks.split(ops.convert_to_tensor(x))
    assert max(view.shape) <= LIMIT
    assert len(view.shape) - 1 == len(blocks.axes([0]))
    assert tuple(view.shape)[-1] == 2
    np.testing.assert_array_equal(numpy(blocks.join(view)), x)


def test_padding_has_weight_zero():
    size = 1021  # a prime: no divisor helps
    blocks = Blocks((2, size), [1])
    weights = blocks.split_weights(None)
    assert weights.shape[0] == 1
    flat = numpy(weights).ravel()
    assert flat.size > size
    np.testing.assert_array_equal(flat, np.arange(flat.size) < size)
    given = np.array([[1.0], [0.0]], "float32")
    weights = blocks.split_weights(ops.convert_to_tensor(given))
    np.testing.assert_array_equal(numpy(ops.sum(weights, axis=(1, 2))), [size, 0])


def test_short_axes_are_left_alone():
    x = ops.ones((3, LIMIT))
    blocks = Blocks(x.shape, [0, 1])
    assert blocks.split(x) is x
    assert blocks.join(x) is x
    assert blocks.split_weights(None) is None
    assert blocks.split(None) is None


if keras.backend.backend() == "tensorflow":

    @pytest.mark.parametrize("size", [0, 1, 5, LIMIT, 3 * LIMIT + 1])
    def test_unknown_sizes(size):
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec([None, 2])])
        def there_and_back(x):
            blocks = Blocks(ops.shape(x), [0])
            view = blocks.split(x)
            return blocks.join(view), tf.shape(view), tf.reduce_sum(blocks.split_weights(None))

        x = np.arange(size * 2, dtype="float32").reshape(size, 2)
        back, shape, weight = there_and_back(x)
        np.testing.assert_array_equal(back, x)
        assert max(shape.numpy()) <= LIMIT
        assert weight == size
