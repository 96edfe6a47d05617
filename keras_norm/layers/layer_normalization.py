"""Layer normalization."""

from typing import ClassVar, Unpack

import keras

from keras_norm.layers.arguments import SharedArguments, complete
from keras_norm.layers.axes_normalization import Axes, AxesNormalization


@keras.saving.register_keras_serializable("keras_norm")
@complete
class LayerNormalization(AxesNormalization):
    """Normalizes each sample over its positions and channels, or over the axes that you choose.

        output = gamma * (input - mean) / sqrt(variance + epsilon) + beta

    Mean and (biased) variance are taken over `reduction_axes`; gamma and beta span `axis`. By
    default, the moments are taken over all axes except the batch, including time steps: **each
    time step of a sequence then depends on all others, including later ones.** If steps must not
    mix, as in transformers, pass `reduction_axes=-1`; `reduction_axes=axis` is Keras's layer.

    gamma and beta have the variable dtype of the layer's policy.

    Statistics are computed in at least float32. Their error stays near float32's rounding, even if
    the mean is 100,000 times the standard deviation. Training and inference are the same.

    Args:
        axis: Integer or list of integers: the axes that gamma and beta span.
        epsilon: Number > 0, in squared units of the input, added to the variance.
        **shared: Arguments that all layers have; see `Normalization`.
        reduction_axes: Integer or list of integers: the axes that the moments are taken over.
            None: all axes except the batch.
        **kwargs: `name`, `dtype`, `trainable`, ... of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of a floating or integer dtype, the batch on its first axis.
        training: Boolean or None. Does not change the outputs; selects TensorFlow's graph for
            inputs of unknown size.
        mask: Tensor of booleans, or of 0s and 1s, or None. Entries that are False or 0 mark
            padding, which the moments exclude. Its shape is the input's without the channel axis
            (the last one that `axis` names), or a leading part of that. For a sample, or a step,
            that is all padding, the output is beta.

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
    >>> from keras_norm import LayerNormalization
    >>> x = np.array([[[1.0, 3.0], [5.0, 7.0]]], "float32")  # one sample, two steps, two channels
    >>> keras.ops.convert_to_numpy(LayerNormalization(reduction_axes=-1)(x)).round(2).tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]
    >>> print(keras.ops.convert_to_numpy(LayerNormalization()(x)).round(2))  # over both steps
    [[[-1.34 -0.45]
      [ 0.45  1.34]]]

    Reference:
        Ba, Kiros, Hinton, "Layer normalization", 2016, https://arxiv.org/abs/1607.06450
    """

    _accepted_of_keras: ClassVar = {
        "rms_scaling": (
            (False,),
            "Keras deprecates it, as it divides by the standard deviation; "
            "`keras_norm.RMSNormalization` divides by the root mean square.",
        ),
    }

    def __init__(
        self,
        axis: Axes = -1,
        epsilon: float = 1e-5,
        *,
        reduction_axes: Axes | None = None,
        **shared: Unpack[SharedArguments],
    ):
        super().__init__(axis=axis, epsilon=epsilon, reduction_axes=reduction_axes, **shared)

    @classmethod
    def from_config(cls, config):
        """Returns a layer with the arguments in `config`, from this class or from Keras's.

        A config of Keras's `LayerNormalization` means Keras's axes: the moments are taken over
        `axis`. Such a config contains the arguments that both classes always write, but not
        `reduction_axes`, which only this class writes.
        """
        if "reduction_axes" not in config and config.keys() >= _OF_KERAS:
            config = {**config, "reduction_axes": config.get("axis", -1)}
        return cls(**config)


# The keys of every config of Keras's layer, in all versions. Keras drops an `axis` of several axes
# when it reads `.h5` files.
_OF_KERAS = {
    *("epsilon", "center", "scale", "beta_initializer", "gamma_initializer"),
    *("beta_regularizer", "gamma_regularizer", "beta_constraint", "gamma_constraint"),
}
