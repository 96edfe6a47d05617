"""RMS normalization."""

from typing import Unpack

import keras

from keras_norm import _validation
from keras_norm.layers.arguments import SharedExceptCenter, complete
from keras_norm.layers.axes_normalization import Axes, AxesNormalization


@keras.saving.register_keras_serializable("keras_norm")
@complete
class RMSNormalization(AxesNormalization):
    """Divides each sample, or each step, by the root mean square over its channels.

        output = (gamma + gamma_offset) * input / sqrt(mean(input^2) + epsilon) + beta

    The mean of the squares is taken over `reduction_axes`; gamma and beta span `axis`. By default
    both are the last axis, as in Keras, PyTorch and Flax, and the layer has no beta. No mean is
    subtracted.

    gamma and beta have the variable dtype of the layer's policy. The mean square is computed in at
    least float32. Training and inference are the same.

    Args:
        axis: Integer or list of integers: the axes that gamma and beta span.
        epsilon: Number > 0, in squared units of the input, added to the mean square.
        center: Boolean, whether to add beta.
        **shared: Arguments that all layers have; see `Normalization`.
        reduction_axes: Integer or list of integers: the axes that the mean square is taken over.
            None: `axis`.
        gamma_offset: Number that is added to gamma. With 1.0 and `gamma_initializer="zeros"`, this
            is Gemma's layer: regularizers, weight decay and L2 then pull the factor towards 1.
        **kwargs: `name`, `dtype`, `trainable`, ... of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of a floating or integer dtype, the batch on its first axis.
        training: Boolean or None. Does not change the outputs; selects TensorFlow's graph for
            inputs of unknown size.
        mask: Tensor of booleans, or of 0s and 1s, or None. Entries that are False or 0 mark
            padding, which the mean square excludes. Its shape is the input's without the channel
            axis (the last one that `axis` names), or a leading part of that. For a sample, or a
            step, that is all padding, the output is beta, or 0 without beta.

    Input shape:
        `(batch, ..., channels)`, or as `axis` says; ranks 2 to 6 are tested. The axes that gamma
        and beta span must have known sizes.

    Output shape:
        The input's. The dtype is the compute dtype of the layer's policy.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range, values have a wrong size, or the input does
            not fit `axis`, `reduction_axes` or `num_channels`.

    Example:
    >>> import keras, numpy as np
    >>> from keras_norm import RMSNormalization
    >>> x = np.array([[1.0, 7.0]], "float32")  # the root mean square is 5
    >>> print(keras.ops.convert_to_numpy(RMSNormalization()(x)).round(3))
    [[0.2 1.4]]

    Reference:
        Zhang and Sennrich, "Root mean square layer normalization", 2019,
        https://arxiv.org/abs/1910.07467
    """

    centered = False
    reduces_axis = True

    def __init__(
        self,
        axis: Axes = -1,
        epsilon: float = 1e-6,
        *,
        center: bool = False,
        reduction_axes: Axes | None = None,
        gamma_offset: float = 0.0,
        **shared: Unpack[SharedExceptCenter],
    ):
        super().__init__(
            axis=axis, epsilon=epsilon, center=center, reduction_axes=reduction_axes, **shared
        )
        self.gamma_offset = _validation.real("gamma_offset", gamma_offset)
        if self.gamma_offset and not self.scale:
            raise ValueError(
                "Argument `gamma_offset` must be 0 with `scale=False`, as it is added to gamma. "
                f"Received: gamma_offset={gamma_offset}, scale=False"
            )

    def _scale_and_offset(self, shape, dtype):
        gamma, beta = super()._scale_and_offset(shape, dtype)
        return (gamma + self.gamma_offset if self.gamma_offset else gamma), beta

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "gamma_offset": self.gamma_offset}
