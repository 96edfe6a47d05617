"""Layer normalization."""

import keras

from keras_norm import _validation
from keras_norm.layers.normalization import Normalization
from keras_norm.ops import convert, normalize
from keras_norm.ops.convert import at_least_float32


@keras.saving.register_keras_serializable("keras_norm")
class LayerNormalization(Normalization):
    """Normalizes each sample over its positions and channels, or over the axes that you choose.

        output = gamma * (input - mean) / sqrt(variance + epsilon) + beta

    `reduction_axes` says what mean and (biased) variance are taken over, `axis` what gamma and
    beta span. The default takes them over every axis but the batch, time steps included: **each
    time step of a sequence then depends on all the others, later ones too.** Where steps must not
    mix, as in transformers, pass `reduction_axes=-1`; `reduction_axes=axis` is Keras's layer.

    gamma and beta have the variable dtype of the layer's policy.

    Statistics are computed in at least float32. Their error stays near float32's rounding also
    where the mean is 100,000 times the deviation. Training and inference are the same.

    Args:
        axis: Integer or list of integers: the axes that gamma and beta span.
        epsilon: Number > 0, in squared units of the input, added to the variance.
        center: Boolean, whether to add beta.
        scale: Boolean, whether to multiply by gamma.
        beta_initializer: Initial beta, of the sizes along `axis`: a name or initializer of Keras,
            "narrow-normal" (normal with mean 0 and deviation 0.01), a function of the size, or the
            values themselves.
        gamma_initializer: Initial gamma, likewise.
        beta_regularizer: Keras regularizer for beta.
        gamma_regularizer: Keras regularizer for gamma.
        beta_constraint: Keras constraint for beta.
        gamma_constraint: Keras constraint for gamma.
        beta_lr_multiplier: Number >= 0 that `MultiplierOptimizer` multiplies the learning rate of
            beta by.
        gamma_lr_multiplier: The same for gamma.
        beta_l2_multiplier: Number >= 0 that `MultiplierOptimizer` multiplies its `l2` by for beta.
        gamma_l2_multiplier: The same for gamma.
        num_channels: Positive integer, the size of the channel axis, to be checked at build; None
            or "auto" takes it from the input. Goes with a single `axis`.
        reduction_axes: Integer or list of integers: the axes that the moments are taken over.
            None: every axis but the batch.
        **kwargs: `name`, `dtype`, `trainable`, ... of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of a floating or integer dtype, the batch on its first axis.
        training: Boolean or None, whether gradients are to come: outputs are the same, but the
            graph of TensorFlow for inputs of unknown size is not.
        mask: Tensor of booleans, or of 0s and 1s, or None. What is False or 0 is padding, and is
            kept out of the moments. Its shape is the input's without the channel axis (the last
            one that `axis` names), or a leading part of that. A sample, or a step, that is all
            padding gives beta.

    Input shape:
        `(batch, ..., channels)`, or what `axis` says; ranks 2 to 6 are tested. The axes that gamma
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

    def __init__(
        self,
        axis=-1,
        epsilon=1e-5,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        beta_lr_multiplier=1.0,
        gamma_lr_multiplier=1.0,
        beta_l2_multiplier=1.0,
        gamma_l2_multiplier=1.0,
        num_channels=None,
        reduction_axes=None,
        **kwargs,
    ):
        super().__init__(
            axis=_axes("axis", axis),
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            beta_lr_multiplier=beta_lr_multiplier,
            gamma_lr_multiplier=gamma_lr_multiplier,
            beta_l2_multiplier=beta_l2_multiplier,
            gamma_l2_multiplier=gamma_l2_multiplier,
            num_channels=num_channels,
            **kwargs,
        )
        self.reduction_axes = (
            None if reduction_axes is None else _axes("reduction_axes", reduction_axes)
        )
        if self.num_channels is not None and len(_as_list(self.axis)) != 1:
            raise ValueError(
                "Argument `num_channels` goes with a single `axis`. "
                f"Received: num_channels={num_channels}, axis={axis}"
            )

    def build(self, input_shape):
        """Creates gamma and beta."""
        axes = self._indices("axis", len(input_shape))
        self._reduced(len(input_shape))
        if len(axes) == 1:
            self._check_channels(input_shape, axes[0])
        self._parameter_shape = tuple(input_shape[axis] for axis in axes)
        if None in self._parameter_shape:
            raise ValueError(
                f"The axes that gamma and beta of {self._described} span must have known sizes. "
                f"Received: axis={self.axis}, input shape {tuple(input_shape)}"
            )
        self._add_scale_and_offset(self._parameter_shape)
        # Counted as in the argument: an input of another rank may do as well.
        given = _as_list(self.axis)
        self.input_spec = keras.layers.InputSpec(
            min_ndim=max(axis + 1 if axis >= 0 else -axis for axis in given),
            axes={axis: input_shape[axis] for axis in given},
        )

    def call(self, inputs, training=None, mask=None):
        """Returns the normalized inputs."""
        rank = len(inputs.shape)
        axes = self._indices("axis", rank)
        weights = self._mask_weights(mask, inputs.shape, axes[-1])
        dtype = at_least_float32(inputs.dtype, self.compute_dtype)
        shape = [1] * rank
        for axis, size in zip(axes, self._parameter_shape, strict=True):
            shape[axis] = size
        gamma, beta = self._scale_and_offset(shape, dtype)
        outputs, _ = normalize(
            self._computable(inputs, dtype),
            self._reduced(rank),
            self.epsilon,
            gamma,
            beta,
            weights,
            exported=not training,
            with_moments=False,
        )
        return convert(outputs, self.compute_dtype)

    def _reduced(self, rank):
        """Returns the axes that the moments are taken over, counted from the front."""
        if self.reduction_axes is not None:
            return self._indices("reduction_axes", rank)
        if rank < 2:
            raise ValueError(
                f"The input of {self._described} must have an axis besides the batch, or "
                f"`reduction_axes` must name one. Received: an input of rank {rank}"
            )
        return list(range(1, rank))

    def _indices(self, name, rank):
        axes = _as_list(getattr(self, name))
        found = sorted(_validation.axis_index(name, axis, rank, self._described) for axis in axes)
        if len(set(found)) < len(found):
            raise ValueError(
                f"Argument `{name}` of {self._described} names an axis twice, for an input of rank "
                f"{rank}. Received: {name}={axes}"
            )
        return found

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "reduction_axes": self.reduction_axes}


def _axes(name, axes):
    """Returns an argument that is an axis or several, checked as far as it can be before build."""
    if _validation.is_integer(axes):
        return int(axes)
    if not isinstance(axes, list | tuple) or not all(map(_validation.is_integer, axes)):
        raise TypeError(
            f"Expected an int or a list/tuple of ints for the argument '{name}', but received: "
            f"{name}={axes!r}"
        )
    axes = [int(axis) for axis in axes]
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(
            f"Argument `{name}` must name at least one axis, and none twice. "
            f"Received: {name}={axes}"
        )
    return axes


def _as_list(axes):
    return axes if isinstance(axes, list) else [axes]
