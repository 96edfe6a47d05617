"""Instance normalization."""

from typing import Unpack

import keras

from keras_norm.layers.arguments import SharedArguments, complete
from keras_norm.layers.group_normalization import CHANNEL_WISE, GroupNormalization


@keras.saving.register_keras_serializable("keras_norm")
@complete
class InstanceNormalization(GroupNormalization):
    """Normalizes each channel of each sample over its positions.

        output = gamma * (input - mean) / sqrt(variance + epsilon) + beta

    Mean and (biased) variance are those of one channel of one sample; gamma and beta have the
    shape `(channels,)` and the variable dtype of the layer's policy. The layer is
    `GroupNormalization(groups="channel-wise")` under its own name.

    Statistics are computed in at least float32. Their error stays near float32's rounding, even if
    the mean is 100,000 times the standard deviation. Training and inference are the same.

    Args:
        axis: Integer, the channel axis: -1 for channels last, 1 for channels first.
        epsilon: Number > 0, in squared units of the input, added to the variance.
        **shared: Arguments that all layers have; see `Normalization`.
        **kwargs: `name`, `dtype`, `trainable`, ... of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of a floating or integer dtype, the batch on its first axis.
        training: Boolean or None. Does not change the outputs; selects TensorFlow's graph for
            inputs of unknown size.
        mask: Tensor of booleans, or of 0s and 1s, or None. Entries that are False or 0 mark
            padding, which the moments exclude. Its shape is the input's without the channel axis,
            or a leading part of that. For a sample that is all padding, the output is beta.

    Input shape:
        `(batch, ..., channels)`, or as `axis` says; ranks 3 to 6 are useful. The channel axis
        must have a known size. In an input of shape `(batch, channels)` each set has one element,
        and the output is beta.

    Output shape:
        The input's. The dtype is the compute dtype of the layer's policy.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range, values have a wrong size, or the input does
            not fit `axis` or `num_channels`.

    Example:
    >>> import keras, numpy as np
    >>> from keras_norm import InstanceNormalization
    >>> x = np.array([[[1.0, 10.0], [3.0, 30.0]]], "float32")  # one sample, two steps, two channels
    >>> keras.ops.convert_to_numpy(InstanceNormalization()(x)).round(3).tolist()
    [[[-1.0, -1.0], [1.0, 1.0]]]

    Reference:
        Ulyanov, Vedaldi, Lempitsky, "Instance normalization: the missing ingredient for fast
        stylization", 2016, https://arxiv.org/abs/1607.08022
    """

    def __init__(self, axis: int = -1, epsilon: float = 1e-5, **shared: Unpack[SharedArguments]):
        if "groups" in shared:
            raise ValueError(
                "Argument `groups` belongs to `GroupNormalization`; here each "
                f"channel is a group. Received: groups={shared.get('groups')}"
            )
        super().__init__(groups=CHANNEL_WISE, axis=axis, epsilon=epsilon, **shared)

    def get_config(self):
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["groups"]
        return config
