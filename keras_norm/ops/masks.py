"""Converts masks to weights of elements."""

import keras
from keras import ops

from keras_norm.ops.convert import convert


def mask_weights(mask, shape, channel_axis):
    """Returns a mask as 0s and 1s that broadcast against an input.

    Args:
        mask: Array or list; entries that are 0 or False mark padding. Its dimensions are those of
            the input without the channel axis, or a leading part of them; a size of 1 is broadcast.
            A mask that fits only the dimensions without the last axis is interpreted that way:
            `keras.layers.Masking` makes such masks for any channel axis. A mask of whole samples
            that have positions must be of booleans, as numbers may be lengths.
        shape: The input's shape, None where a size is unknown.
        channel_axis: The input's channel axis, counted from the front.

    Returns:
        float32 array of the input's rank.

    Raises:
        ValueError: If the mask has another shape, or its numbers may be lengths.

    Example:
    >>> import keras
    >>> from keras_norm.ops import mask_weights
    >>> weights = mask_weights([[True, True, False]], shape=(1, 3, 8), channel_axis=2)
    >>> keras.ops.convert_to_numpy(weights).tolist()
    [[[1.0], [1.0], [0.0]]]
    """
    mask = ops.convert_to_tensor(mask)
    rank = len(shape)
    for axis in (channel_axis, rank - 1):
        sizes = [*shape[:axis], *shape[axis + 1 :]]
        shortest = 1 if axis == channel_axis else rank - 1
        if shortest <= len(mask.shape) < rank and _broadcasts(mask.shape, sizes):
            _refuse_lengths(mask, sizes)
            kept = list(ops.shape(mask)) + [1] * (rank - 1 - len(mask.shape))
            kept.insert(axis, 1)
            return convert(convert(mask, "bool", kept), "float32")
    raise ValueError(
        "A mask must have the input's dimensions without the channel axis "
        f"(axis {channel_axis}), or a leading part of them. "
        f"Received: mask.shape={tuple(mask.shape)}, inputs.shape={tuple(shape)}"
    )


def _refuse_lengths(mask, sizes):
    """Raises if a mask has one number, not a boolean, for all positions of a sample.

    Only dtype and shape are checked: the values may be unknown or on a device.
    """
    has_positions = any(size != 1 for size in sizes[1:])
    covers_positions = any(size != 1 for size in mask.shape[1:])
    dtype = keras.backend.standardize_dtype(mask.dtype)
    if has_positions and not covers_positions and dtype != "bool":
        raise ValueError(
            "A mask with one entry for each sample must contain booleans: numbers may be the "
            "lengths of sequences. `keras.ops.arange(steps) < lengths[:, None]` converts lengths "
            "to a mask, and `mask > 0` converts 0s and 1s. "
            f"Received: mask.shape={tuple(mask.shape)}, mask.dtype={dtype}"
        )


def _broadcasts(mask_shape, sizes):
    return all(
        m is None or n is None or m in (1, n) for m, n in zip(mask_shape, sizes, strict=False)
    )
