"""The common base of the layers: gamma and beta, their configuration and checks."""

import functools
from typing import ClassVar

import keras
import numpy as np

from keras_norm import _validation, initializers, multipliers
from keras_norm.layers.multiplier import Multiplier
from keras_norm.ops import convert, mask_weights
from keras_norm.ops.convert import at_least_float32

_CONTAINERS = list, tuple, dict  # not a union, which PyTorch 2.9 cannot compile
_DEFAULTS = {"beta_initializer": "zeros", "gamma_initializer": "ones"}
_SMALLEST_EPSILON = float(np.finfo("float32").tiny)


class Normalization(keras.layers.Layer):
    """Base class of the layers. All layers have its arguments.

    Args:
        axis: Integer, the channel axis.
        epsilon: Number > 0, in squared units of the input, added to the variance.
        center: Boolean, whether to add beta.
        scale: Boolean, whether to multiply by gamma.
        beta_initializer: Initial beta, one value for each entry: the name of a Keras initializer,
            an initializer, "narrow-normal" (normal with mean 0 and standard deviation 0.01), a
            function of the size, or the values themselves.
        gamma_initializer: Initial gamma, in the same forms.
        beta_regularizer: Keras regularizer for beta.
        gamma_regularizer: Keras regularizer for gamma.
        beta_constraint: Keras constraint for beta.
        gamma_constraint: Keras constraint for gamma.
        beta_lr_multiplier: Number >= 0, or a schedule of numbers >= 0, that `MultiplierOptimizer`
            multiplies the learning rate of beta by.
        gamma_lr_multiplier: The same for gamma.
        beta_l2_multiplier: Number >= 0, or a schedule of numbers >= 0, that `MultiplierOptimizer`
            multiplies its `l2` by for beta.
        gamma_l2_multiplier: The same for gamma.
        num_channels: Positive integer, the size of the channel axis, which is checked at build.
            None or "auto" takes the size from the input.
        **kwargs: `name`, `dtype`, `trainable`, ... of `keras.layers.Layer`.
    """

    # Arguments that Keras's layer has or had and this one does not need. Configs of Keras contain
    # them. For each: the values that change nothing, and a sentence about other values.
    _accepted_of_keras: ClassVar = {}

    gamma_lr_multiplier = Multiplier("gamma", multipliers.LR)
    beta_lr_multiplier = Multiplier("beta", multipliers.LR)
    gamma_l2_multiplier = Multiplier("gamma", multipliers.L2)
    beta_l2_multiplier = Multiplier("beta", multipliers.L2)

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
        **kwargs,
    ):
        for name in self._accepted_of_keras.keys() & kwargs.keys():
            neutral, remedy = self._accepted_of_keras[name]
            _validation.neutral(name, kwargs.pop(name), neutral, remedy)
        super().__init__(**kwargs)
        # Statistics see the input in its own precision, not in the policy's compute dtype.
        self.autocast = False
        self.supports_masking = True
        self.gamma = None
        self.beta = None
        self.axis = axis
        self.epsilon = _validation.real("epsilon", epsilon, above=0.0)
        if self.epsilon < _SMALLEST_EPSILON:
            raise ValueError(
                f"Argument `epsilon` must be at least {_SMALLEST_EPSILON:.3g}, the smallest normal "
                "number of float32. Smaller numbers count as 0, and constant inputs would become "
                f"NaN. Received: epsilon={epsilon}"
            )
        self.center = _validation.boolean("center", center)
        self.scale = _validation.boolean("scale", scale)
        self.beta_initializer = initializers.get(beta_initializer, "beta_initializer")
        self.gamma_initializer = initializers.get(gamma_initializer, "gamma_initializer")
        self.beta_regularizer = _regularizer("beta_regularizer", beta_regularizer)
        self.gamma_regularizer = _regularizer("gamma_regularizer", gamma_regularizer)
        self.beta_constraint = _constraint("beta_constraint", beta_constraint)
        self.gamma_constraint = _constraint("gamma_constraint", gamma_constraint)
        self.beta_lr_multiplier = beta_lr_multiplier
        self.gamma_lr_multiplier = gamma_lr_multiplier
        self.beta_l2_multiplier = beta_l2_multiplier
        self.gamma_l2_multiplier = gamma_l2_multiplier
        self._num_channels = _check_num_channels(num_channels)
        self._built_channels = None

    def __call__(self, inputs, *args, **kwargs):
        """Returns the normalized inputs; see `call`."""
        if inputs is None or isinstance(inputs, _CONTAINERS):
            raise ValueError(
                f"The input of {self._described} must be one tensor or array. `numpy.array` "
                "converts a list of numbers. "
                f"Received: inputs={_validation.shown(inputs)} (of type {type(inputs).__name__})"
            )
        return super().__call__(inputs, *args, **kwargs)

    @property
    def num_channels(self):
        """The number of channels: the argument, or that of the built layer; None before build."""
        return self._num_channels or self._built_channels

    @property
    def _described(self):
        return f"layer '{self.name}' ({type(self).__name__})"

    def _channel_axis(self, input_shape):
        """Returns the channel axis, checked and counted from the front."""
        return _validation.axis_index("axis", self.axis, len(input_shape), self._described)

    def _check_rank(self, input_shape):
        """Checks that the input has an axis besides the channel axis."""
        if len(input_shape) < 2:
            raise ValueError(
                f"The input of {self._described} must have a batch axis and a channel axis. "
                f"Received: input shape {tuple(input_shape)}"
            )

    def _check_channels(self, input_shape, channel_axis):
        """Checks the size of the channel axis against `num_channels`, and stores it."""
        channels = input_shape[channel_axis]
        if channels is None:
            raise ValueError(
                f"Axis {self.axis} of the input tensor should have a defined dimension but the "
                f"layer received an input with shape {tuple(input_shape)}. It is the channel axis "
                f"of {self._described}."
            )
        if self._num_channels is not None and channels != self._num_channels:
            raise ValueError(
                f"Argument `num_channels` of {self._described} is "
                f"{_validation.shown(self._num_channels)}, but axis {self.axis} of the input has "
                f"{channels} channels. "
                f"Received: input shape {tuple(input_shape)}"
            )
        self._built_channels = channels

    def _add_scale_and_offset(self, shape):
        """Creates gamma if `scale`, and beta if `center`."""
        if self.scale:
            self.gamma = self._add_parameter("gamma", shape)
        if self.center:
            self.beta = self._add_parameter("beta", shape)

    def _add_parameter(self, name, shape):
        argument = f"{name}_initializer"
        variable = self.add_weight(
            name=name,
            shape=shape,
            initializer=initializers.for_shape(
                getattr(self, argument), shape, argument, self._described
            ),
            regularizer=getattr(self, f"{name}_regularizer"),
            constraint=getattr(self, f"{name}_constraint"),
            trainable=True,
            autocast=False,
        )
        setattr(variable, multipliers.LR, getattr(self, f"{name}_lr_multiplier"))
        setattr(variable, multipliers.L2, getattr(self, f"{name}_l2_multiplier"))
        return variable

    def _scale_and_offset(self, shape, dtype):
        """Returns gamma and beta in a shape that broadcasts against the input, or None."""
        return (
            None if variable is None else convert(variable, dtype, shape)
            for variable in (self.gamma, self.beta)
        )

    def _statistics_dtype(self, inputs):
        """Returns the dtype that the moments of an input are computed in."""
        given = keras.backend.standardize_dtype(inputs.dtype)
        if given.startswith("complex"):
            raise TypeError(
                f"The input of {self._described} must be of a floating or integer dtype. "
                f"Received: inputs.dtype={given}"
            )
        return at_least_float32(given, self.compute_dtype)

    def _computable(self, inputs, dtype, shape=None):
        """Returns inputs in the dtype of the statistics, in a shape if one is given.

        Inputs in the layer's compute dtype keep it: `normalize` converts them, and stores only the
        narrower dtype for the gradient.
        """
        given = keras.backend.standardize_dtype(inputs.dtype)
        return convert(inputs, given if given == self.compute_dtype else dtype, shape)

    def _mask_weights(self, mask, shape, channel_axis):
        return None if mask is None else mask_weights(mask, shape, channel_axis)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        """Returns `layer_call` as `keras.RematScope` needs it: recomputed from the inputs.

        Its keyword arguments, `training` and `mask`, are bound: Keras fails on those of a
        recomputed function on TensorFlow, and traces `training` on JAX.
        """
        recomputed = super().rematerialized_call(functools.partial(layer_call, **kwargs), *args)
        return lambda *args, **_: recomputed(*args)

    def compute_output_shape(self, input_shape):
        """Returns the input's shape."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "axis": self.axis,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": self._serialized("beta_initializer"),
            "gamma_initializer": self._serialized("gamma_initializer"),
            "beta_regularizer": keras.regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": keras.regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": keras.constraints.serialize(self.beta_constraint),
            "gamma_constraint": keras.constraints.serialize(self.gamma_constraint),
            "beta_lr_multiplier": multipliers.serialize(self.beta_lr_multiplier),
            "gamma_lr_multiplier": multipliers.serialize(self.gamma_lr_multiplier),
            "beta_l2_multiplier": multipliers.serialize(self.beta_l2_multiplier),
            "gamma_l2_multiplier": multipliers.serialize(self.gamma_l2_multiplier),
            "num_channels": self._num_channels,
        }

    def _serialized(self, argument):
        initializer = getattr(self, argument)
        is_used = {"beta_initializer": self.center, "gamma_initializer": self.scale}
        is_function = isinstance(initializer, initializers.SizeFunction)
        if is_function and not is_used.get(argument, True):
            # Nothing calls it, so there are no values to save.
            initializer = keras.initializers.get(_DEFAULTS[argument])
        return initializers.serialize(initializer, argument, self._described)


def single_axis(axis):
    """Returns the argument `axis` of a layer with a single axis, checked.

    A list of one axis, as in configs of Keras 2, means that axis.

    Raises:
        TypeError: If it is not an integer.
    """
    if isinstance(axis, list | tuple) and len(axis) == 1:
        (axis,) = axis
    if not _validation.is_integer(axis):
        raise TypeError(
            f"Argument `axis` must be an integer. Received: axis={_validation.shown(axis)}"
        )
    return int(axis)


def _regularizer(name, identifier):
    accepted = "the name of a Keras regularizer, a regularizer or None"
    return _validation.keras_object(name, identifier, keras.regularizers.get, accepted)


def _constraint(name, identifier):
    accepted = "the name of a Keras constraint, a constraint or None"
    return _validation.keras_object(name, identifier, keras.constraints.get, accepted)


def _check_num_channels(num_channels):
    if num_channels is None or (isinstance(num_channels, str) and num_channels == "auto"):
        return None
    accepted = "a positive integer, 'auto' or None"
    return _validation.whole("num_channels", num_channels, accepted, low=1)
