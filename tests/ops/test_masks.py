import numpy as np
import pytest
from keras import ops

from keras_norm.ops import mask_weights
from tests.gradients import numpy

MASK = np.array([[True, False, True], [False, False, True]])


@pytest.mark.parametrize(
    ("shape", "channel_axis", "expected"),
    [
        ((2, 3, 4), 2, (2, 3, 1)),
        ((2, 4, 3), 1, (2, 1, 3)),
        ((2, 3, 5, 6, 4), 4, (2, 3, 1, 1, 1)),
        ((2, 4, 3, 5), 1, (2, 1, 3, 1)),
        ((None, None, 4), 2, (2, 3, 1)),
    ],
)
def test_leading_dimensions_without_the_channel_axis(shape, channel_axis, expected):
    weights = numpy(mask_weights(ops.convert_to_tensor(MASK), shape, channel_axis))
    assert weights.dtype == "float32"
    np.testing.assert_array_equal(weights, MASK.reshape(expected))


def test_where_a_mask_fits_both_it_is_without_the_channel_axis():
    # (batch, time) of (batch, channels, time), not what `keras.layers.Masking` makes of it.
    weights = mask_weights(ops.convert_to_tensor(MASK), (2, 3, 3), 1)
    np.testing.assert_array_equal(numpy(weights), MASK[:, None, :])


def test_size_one_is_broadcast_and_any_nonzero_holds():
    weights = mask_weights(ops.convert_to_tensor([[[2.0], [0.0]]]), (1, 2, 3, 4), 3)
    np.testing.assert_array_equal(numpy(weights)[..., 0, 0], [[1, 0]])


def test_a_short_mask_has_the_axes_that_positions_have():
    # With channels on axis 1 the second axis of a mask is the third of the input.
    with pytest.raises(ValueError, match="A mask must have"):
        mask_weights(ops.convert_to_tensor(MASK), (2, 3, 7, 8), 1)


def test_mask_of_keras_masking_on_channels_first_input():
    # keras.layers.Masking drops the last axis, whatever the channel axis is.
    weights = mask_weights(ops.convert_to_tensor(MASK), (2, 3, 7), 1)
    np.testing.assert_array_equal(numpy(weights), MASK[:, :, None])


@pytest.mark.parametrize("shape", [(2, 5, 3), (None, None, 3), (2, 5, 5, 3)])
@pytest.mark.parametrize(
    "lengths",
    [[5, 2], [[5], [2]], np.array([1, 0], "uint8"), [5.0, 2.0], np.array([[5], [2]], "float32")],
)
def test_lengths_are_not_a_mask(shape, lengths):
    with pytest.raises(ValueError, match=r"lengths.*mask\.shape=\(2,.*mask\.dtype=(u?int|float)"):
        mask_weights(lengths, shape, len(shape) - 1)


@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        ((2, 5, 3), [True, False]),
        ((2, 5, 3), [[True], [False]]),
        ((2, 3), [1, 0]),  # of samples without positions
        ((2, 1, 3), [[1], [0]]),  # of all positions that there are
    ],
)
def test_masks_of_whole_samples(shape, mask):
    weights = numpy(mask_weights(mask, shape, len(shape) - 1))
    np.testing.assert_array_equal(weights.ravel(), [1, 0])


@pytest.mark.parametrize("shape", [(2, 4, 5), (3, 3, 4), (2,), (2, 3), (2, 4, 5, 3)])
def test_other_shapes_are_refused_with_both(shape):
    with pytest.raises(ValueError, match=r"mask\.shape=\(2, 3\), inputs\.shape="):
        mask_weights(ops.convert_to_tensor(MASK), shape, len(shape) - 1)
