"""Group normalization."""

from typing import Unpack

import keras
from keras import ops

from keras_norm import _validation
from keras_norm.layers.arguments import SharedArguments, complete
from keras_norm.layers.normalization import Normalization, single_axis
from keras_norm.ops import convert, normalize

ALL_CHANNELS = "all-channels"
CHANNEL_WISE = "channel-wise"


@keras.saving.register_keras_serializable("keras_norm")
@complete
class GroupNormalization(Normalization):
    """Normalizes each group of channels of each sample over its positions.

        output = gamma * (input - mean) / sqrt(variance + epsilon) + beta

    Mean and (biased) variance are those of one group of neighbouring channels of one sample;
    gamma and beta have the shape `(channels,)` and the variable dtype of the layer's policy.

    Statistics are computed in at least float32. Their error stays near float32's rounding, even if
    the mean is 100,000 times the standard deviation. Training and inference are the same.

    Args:
        groups: Number of groups: a positive integer that divides the number of channels;
            "all-channels" for one group (layer normalization with per-channel parameters); or
            "channel-wise" or -1 for one group per channel (instance normalization).
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
        `(batch, ..., channels)`, or as `axis` says; ranks 2 to 6 are tested. The channel axis
        must have a known size.

    Output shape:
        The input's. The dtype is the compute dtype of the layer's policy.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range, values have a wrong size, or the input does
            not fit `axis`, `groups` or `num_channels`.

    Example:
    >>> import keras, numpy as np
    >>> from keras_norm import GroupNormalization
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]], "float32")
    >>> keras.ops.convert_to_numpy(GroupNormalization(groups=2)(x)).round(3).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]

    Reference:
        Wu and He, "Group normalization", 2018, https://arxiv.org/abs/1803.08494
    """

    def __init__(
        self,
        groups: int | str = 32,
        axis: int = -1,
        epsilon: float = 1e-5,
        **shared: Unpack[SharedArguments],
    ):
        super().__init__(axis=single_axis(axis), epsilon=epsilon, **shared)
        self.groups = _check_groups(groups)
        if self._num_channels is not None:
            self._number_of_groups(self._num_channels)

    def build(self, input_shape):
        """Creates gamma and beta."""
        channel_axis = self._channel_axis(input_shape)
        self._check_rank(input_shape)
        if channel_axis == 0:
            raise ValueError(
                f"Argument `axis` of {self._described} must not be the batch axis, 0. "
                f"Received: axis={self.axis}, input shape {tuple(input_shape)}"
            )
        self._check_channels(input_shape, channel_axis)
        self._number_of_groups(self.num_channels)
        self._add_scale_and_offset((self.num_channels,))
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={channel_axis: self.num_channels}
        )

    def call(self, inputs, training=None, mask=None):
        """Returns the normalized inputs."""
        channel_axis = self._channel_axis(inputs.shape)
        weights = self._mask_weights(mask, inputs.shape, channel_axis)
        dtype = self._statistics_dtype(inputs)
        groups = self._number_of_groups(self.num_channels)
        group_size = self.num_channels // groups

        def grouped(shape, channels):
            return [*shape[:channel_axis], *channels, *shape[channel_axis + 1 :]]

        full_shape = ops.shape(inputs)
        ones = [1] * len(full_shape)
        gamma, beta = self._scale_and_offset(grouped(ones, (groups, group_size)), dtype)
        if weights is not None:
            # The mask has one value for all channels, or one for each.
            channels = (1, 1) if weights.shape[channel_axis] == 1 else (groups, group_size)
            weights = ops.reshape(weights, grouped(ops.shape(weights), channels))
        outputs, _ = normalize(
            self._computable(inputs, dtype, grouped(full_shape, (groups, group_size))),
            [axis for axis in range(1, len(full_shape) + 1) if axis != channel_axis],
            self.epsilon,
            gamma,
            beta,
            weights,
            exported=not training,
            with_moments=False,
        )
        return convert(outputs, self.compute_dtype, full_shape)

    def _number_of_groups(self, channels):
        """Returns the number of groups that `channels` channels are divided into."""
        if self.groups == ALL_CHANNELS:
            return 1
        if self.groups in (CHANNEL_WISE, -1):
            return max(channels, 1)
        if self.groups <= channels and channels % self.groups == 0:
            return self.groups
        wrong = (
            "cannot be more than the number of channels"
            if self.groups > channels
            else "must divide the number of channels"
        )
        divisors = ", ".join(str(n) for n in range(1, channels + 1) if channels % n == 0)
        raise ValueError(
            f"Argument `groups` of {self._described} {wrong}. "
            f"Received: groups={_validation.shown(self.groups)}, "
            f"{channels} channels, which are divisible by {divisors}"
        )

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "groups": self.groups}


def _check_groups(groups):
    if isinstance(groups, str) and groups in (ALL_CHANNELS, CHANNEL_WISE):
        return groups
    if _validation.is_whole(groups) and (groups > 0 or groups == -1):
        return int(groups)
    raise ValueError(
        f"Received an invalid value for argument `groups`: expected a positive integer, "
        f"'{ALL_CHANNELS}', '{CHANNEL_WISE}', or -1 for channel-wise. "
        f"Received: groups={_validation.shown(groups)}"
    )
