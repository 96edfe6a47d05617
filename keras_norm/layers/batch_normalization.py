"""Batch normalization."""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import keras
from keras import ops

from keras_norm import _validation, engines, initializers
from keras_norm.layers.arguments import SharedArguments, complete
from keras_norm.layers.normalization import Normalization, single_axis
from keras_norm.layers.renormalization import check_clipping
from keras_norm.ops import (
    Moments,
    Renorm,
    convert,
    merge_replicas,
    moving_averages,
    normalize,
    renorm_averages,
    standard_deviation,
    standardize,
)
from keras_norm.ops.convert import at_least_float32


@keras.saving.register_keras_serializable("keras_norm")
@complete
class BatchNormalization(Normalization):
    """Normalizes each channel over the batch and all positions.

    In training, the layer uses the mean and the (biased) variance of each channel over the batch,
    and updates its moving statistics. In inference, it uses the moving statistics:

        output = gamma * (input - mean) / sqrt(variance + epsilon) + beta
        moving_mean = momentum * moving_mean + (1 - momentum) * mean
        moving_variance = variance_momentum * moving_variance + (1 - variance_momentum) * variance

    gamma, beta and the moving statistics have the shape `(channels,)`; gamma and beta have the
    variable dtype of the layer's policy, the moving statistics at least float32.

    Statistics are computed in at least float32. Their error stays near float32's rounding, even if
    the mean is 100,000 times the standard deviation. Batches that are empty, all padding or not
    finite leave the moving statistics unchanged. A layer with `trainable=False` runs in inference,
    as in Keras.

    To train gamma and beta with fixed statistics, set `trainable=False` on the layer and then
    `trainable=True` on `layer.gamma` and `layer.beta`. To train only the statistics, set
    `trainable=False` on `layer.gamma` and `layer.beta`. Compile the model afterwards.

    Statistics are updated once per batch, even with gradient accumulation and under
    `keras.RematScope`, which does not recompute this layer. A function under `keras.remat` that
    calls the layer in training updates them once on PyTorch and twice on TensorFlow. On JAX such a
    function cannot assign variables: JAX raises `UnexpectedTracerError` when the statistics are
    next used. Use `keras.RematScope` there, or call the layer outside of the function.

    Args:
        axis: Integer, the channel axis: -1 for channels last, 1 for channels first.
        momentum: Number in [0, 1], the weight of the old moving mean at each step. (MATLAB's decay
            and PyTorch's momentum are 1 minus this.)
        epsilon: Number > 0, in squared units of the input, added to the variance.
        **shared: Arguments that all layers have; see `Normalization`.
        moving_mean_initializer: Initial moving mean, like beta's.
        moving_variance_initializer: Initial moving variance, like beta's; values must be >= 0.
        variance_momentum: The same as `momentum` for the variance; None means `momentum`.
        synchronized: Boolean, whether to use the moments of the global batch over all replicas:
            those of `tf.distribute`, of the default group of `torch.distributed` (where shards may
            differ in size and be empty, but every process must call the layer), or of the named
            axes of `jax.shard_map` and `jax.pmap`. `keras_norm.replica_group` selects another
            group, or the axes that the batch is split over. A step sends two messages forward and
            one back. Under `keras.distribution` on JAX, arrays are global, so the moments are
            always those of the global batch. Without replicas, this argument has no effect.
        renorm: Boolean, whether training corrects outputs towards those of inference (batch
            renormalization): standardized inputs become `r * standardized + d`, with constants
            `r = batch deviation / renorm_stddev` and `d = (batch mean - renorm_mean) /
            renorm_stddev`. Inference is the same. The moving variance then follows a moving
            average of the standard deviation, as in Keras.
        renorm_clipping: Dictionary that may contain "rmin", "rmax" and "dmax": r is clipped to
            [rmin, rmax], and d to [-dmax, dmax]. A missing key means no bound.
        renorm_momentum: Number in [0, 1], the weight of the old `renorm_mean` and `renorm_stddev`
            at each step.
        **kwargs: `name`, `dtype`, `trainable`, ... of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of a floating or integer dtype, the batch on its first axis.
        training: Boolean or None, whether to use the batch's moments, and to update the moving
            statistics. None means inference; in a layer inside a torch module, the mode that
            `.train()` and `.eval()` set.
        mask: Tensor of booleans, or of 0s and 1s, or None. Entries that are False or 0 mark
            padding, which the moments exclude. Its shape is the input's without the channel axis,
            or a leading part of that.

    Input shape:
        `(batch, ..., channels)`, or as `axis` says; ranks 2 to 6 are tested. The channel axis
        must have a known size.

    Output shape:
        The input's. The dtype is the compute dtype of the layer's policy.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range, values have a wrong size, or the input does
            not fit `axis` or `num_channels`.

    Example:
    >>> import keras, numpy as np
    >>> from keras_norm import BatchNormalization
    >>> layer = BatchNormalization(momentum=0.9)
    >>> y = layer(np.array([[1.0], [3.0]], "float32"), training=True)
    >>> keras.ops.convert_to_numpy(y).round(3).tolist()
    [[-1.0], [1.0]]
    >>> print(keras.ops.convert_to_numpy(layer.moving_mean))  # 0.9 * 0 + 0.1 * 2
    [0.2]

    Reference:
        Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing
        internal covariate shift", 2015, https://arxiv.org/abs/1502.03167
    """

    _accepted_of_keras: ClassVar = {
        "fused": ((None, False, True), "It chose an implementation in Keras 2."),
        "virtual_batch_size": ((None,), "Use smaller batches instead."),
        "adjustment": ((None,), "Use `renorm` to correct the outputs in training."),
    }

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        *,
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        variance_momentum: float | None = None,
        synchronized: bool = False,
        renorm: bool = False,
        renorm_clipping: Mapping[str, float | None] | None = None,
        renorm_momentum: float = 0.99,
        **shared: Unpack[SharedArguments],
    ):
        super().__init__(axis=single_axis(axis), epsilon=epsilon, **shared)
        self.momentum = _validation.real("momentum", momentum, low=0.0, high=1.0)
        self.variance_momentum = (
            None
            if variance_momentum is None
            else _validation.real("variance_momentum", variance_momentum, low=0.0, high=1.0)
        )
        self.moving_mean_initializer = initializers.get(
            moving_mean_initializer, "moving_mean_initializer"
        )
        self.moving_variance_initializer = initializers.get(
            moving_variance_initializer, "moving_variance_initializer", low=0.0
        )
        self.synchronized = _validation.boolean("synchronized", synchronized)
        self.renorm = _validation.boolean("renorm", renorm)
        self.renorm_clipping = check_clipping(renorm_clipping)
        self.renorm_momentum = _validation.real(
            "renorm_momentum", renorm_momentum, low=0.0, high=1.0
        )
        self.moving_mean: Any = None
        self.moving_variance: Any = None
        # During a pass for population statistics, the `Observer` that receives the moments.
        self._observer = None
        # Whether the layer follows `.train()` and `.eval()` of a torch module that contains it.
        self.in_torch_module = False
        # The mode of the last forward pass on PyTorch, for its recomputation.
        self.last_mode: bool | None = None

    def build(self, input_shape):
        """Creates gamma, beta and the moving statistics."""
        channel_axis = self._channel_axis(input_shape)
        self._check_rank(input_shape)
        self._check_channels(input_shape, channel_axis)
        shape = (self.num_channels,)
        self._add_scale_and_offset(shape)
        mean, variance = (
            initializers.for_shape(getattr(self, name), shape, name, self._described)
            for name in ("moving_mean_initializer", "moving_variance_initializer")
        )
        self.moving_mean = self._add_statistic("moving_mean", mean)
        self.moving_variance = self._add_statistic("moving_variance", variance)
        if self.renorm:
            self._add_renorm_statistics()
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={channel_axis: self.num_channels}
        )

    def _add_statistic(self, name, initializer):
        return self.add_weight(
            name=name,
            shape=(self.num_channels,),
            initializer=initializer,
            # float16 cannot represent the variance of float16 data.
            dtype=at_least_float32(self.variable_dtype),
            trainable=False,
            autocast=False,
        )

    def _add_renorm_statistics(self):
        """Creates the variables for `renorm`, with Keras's names, in Keras's order."""

        def mean(shape, dtype):
            return ops.copy(convert(self.moving_mean, dtype))

        def deviation(shape, dtype):
            return ops.sqrt(ops.maximum(convert(self.moving_variance, dtype), 0))

        self.moving_stddev = self._add_statistic("moving_stddev", deviation)
        self.renorm_mean = self._add_statistic("renorm_mean", mean)
        self.renorm_stddev = self._add_statistic("renorm_stddev", deviation)

    def call(self, inputs, training=None, mask=None):
        """Returns the normalized inputs."""
        channel_axis = self._channel_axis(inputs.shape)
        weights = self._mask_weights(mask, inputs.shape, channel_axis)
        dtype = self._statistics_dtype(inputs)
        shape = [1] * len(inputs.shape)
        shape[channel_axis] = self.num_channels
        gamma, beta = self._scale_and_offset(shape, dtype)
        training = engines.mode(self, training)
        observer = self._observer
        uses_batch = self.trainable and (training or observer is not None)
        if uses_batch:
            axes = [axis for axis in range(len(shape)) if axis != channel_axis]
            outputs, moments = normalize(
                self._computable(inputs, dtype),
                axes,
                self.epsilon,
                gamma,
                beta,
                weights,
                combine=self._combine_replicas(),
                renorm=self._renorm_statistics(shape, dtype) if observer is None else None,
            )
            if observer is None:
                self._move_statistics(moments)
            else:
                observer.record(self, moments)
                uses_batch = observer.uses_batch
        if not uses_batch:
            x, moments = self._computable(inputs, dtype), self._moving_moments(shape, dtype)
            outputs = standardize(x, moments, self.epsilon, gamma, beta, exported=not training)
        return convert(outputs, self.compute_dtype)

    def __reduce__(self):
        """Keeps the mode in copies and pickles, like torch modules."""
        if not self.in_torch_module:
            return super().__reduce__()
        return (*super().__reduce__(), {"in_torch_module": True, "training": self.training})

    def _combine_replicas(self):
        """Returns the function that makes local moments global; None if they need no change."""
        is_local = self._observer is not None and self._observer.merges_replicas
        total = engines.total() if self.synchronized and not is_local else None
        return None if total is None else functools.partial(merge_replicas, total=total)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        """Returns `layer_call` itself, so that a batch counts once under `keras.RematScope`.

        Recomputing a normalization would save only its output. The layers around it are still
        recomputed.
        """
        return layer_call

    def _moving_moments(self, shape, dtype):
        return Moments(
            count=1,
            shift=convert(self.moving_mean, dtype, shape),
            residual=None,
            variance=convert(self.moving_variance, dtype, shape),
        )

    def _renorm_statistics(self, shape, dtype):
        """Returns the `Renorm` of a batch; None without batch renormalization."""
        if not self.renorm:
            return None
        variables = self.renorm_mean, self.renorm_stddev
        statistics = (convert(variable, dtype, shape) for variable in variables)
        return Renorm(*statistics, **(self.renorm_clipping or {}))

    def _move_statistics(self, moments):
        """Updates the statistics with a batch's moments, except in a recomputed forward pass."""
        if engines.recomputing():
            return
        momenta = (
            self.momentum,
            self.momentum if self.variance_momentum is None else self.variance_momentum,
        )
        variables = self.statistics
        if self.renorm:
            variables = [*variables, self.renorm_mean, self.renorm_stddev]
        averages = [convert(variable, variable.dtype) for variable in variables]
        if self.renorm:
            averages = renorm_averages(
                averages, moments, (*momenta, self.renorm_momentum), self.epsilon
            )
        else:
            averages = moving_averages(averages, moments, momenta)
        for variable, value in zip(variables, averages, strict=True):
            variable.assign(value)

    @property
    def statistics(self):
        """The variables that `set_statistics` sets."""
        return [
            self.moving_mean,
            self.moving_variance,
            *([self.moving_stddev] if self.renorm else []),
        ]

    def set_statistics(self, mean, variance):
        """Sets the mean and variance that inference uses.

        Args:
            mean: Array of the shape `(channels,)`.
            variance: Array of the shape `(channels,)`, the biased variance.
        """
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        if self.renorm:
            variance = convert(self.moving_variance, self.moving_variance.dtype)
            self.moving_stddev.assign(standard_deviation(variance, self.epsilon))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "variance_momentum": self.variance_momentum,
            "moving_mean_initializer": self._serialized("moving_mean_initializer"),
            "moving_variance_initializer": self._serialized("moving_variance_initializer"),
            "synchronized": self.synchronized,
            "renorm": self.renorm,
            "renorm_clipping": self.renorm_clipping,
            "renorm_momentum": self.renorm_momentum,
        }
