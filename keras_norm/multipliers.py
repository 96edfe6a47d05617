"""The multipliers of learning rate, L2 and weight decay, which any Keras variable can have."""

import math
import re

import keras

from keras_norm import _keras, _validation

LR = "lr_multiplier"
L2 = "l2_multiplier"
WEIGHT_DECAY = "weight_decay_multiplier"
KINDS = (LR, L2, WEIGHT_DECAY)

_SCHEDULE = keras.optimizers.schedules.LearningRateSchedule
# Steps at which each schedule is checked.
_TRIED = (0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


def of(variable, kind):
    """Returns a variable's multiplier of one of `KINDS`; 1.0 if none was set."""
    return getattr(variable, kind, 1.0)


def is_schedule(multiplier):
    """Returns whether a multiplier changes with the optimizer's iterations."""
    return isinstance(multiplier, _SCHEDULE)


def now(multiplier, iterations):
    """Returns the value of a multiplier at a step: a number, or a tensor from a schedule."""
    return multiplier(iterations) if is_schedule(multiplier) else multiplier


def checked_multiplier(name, value):
    """Returns `value`, a schedule or a finite number >= 0 as a float, and raises otherwise.

    A schedule is checked at a few steps up to a million, and a `PiecewiseConstantDecay` also in
    each of its intervals. Its configuration is accepted too.
    """
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if is_schedule(value):
        for step in _tried(value):
            found = float(keras.ops.convert_to_numpy(value(step)))
            if not (math.isfinite(found) and found >= 0):
                raise ValueError(
                    f"Argument `{name}` must be a schedule of finite numbers >= 0. Received: "
                    f"{name}={type(value).__name__}, which is {found} at step {step}"
                )
        return value
    return _validation.real(name, value, low=0.0)


def _tried(schedule):
    """Returns the steps at which a schedule is checked."""
    if not isinstance(schedule, keras.optimizers.schedules.PiecewiseConstantDecay):
        return _TRIED
    # A boundary is the last step of the interval before it.
    return sorted({*_TRIED, *(math.floor(boundary) + 1 for boundary in schedule.boundaries)})


def serialize(multiplier):
    """Returns the config of a multiplier: a number, or a dictionary for a schedule."""
    if is_schedule(multiplier):
        return keras.saving.serialize_keras_object(multiplier)
    return multiplier


def set_multipliers(variable_or_layer, lr=None, l2=None, weight_decay=None):
    """Sets the multipliers of a variable, or of every weight of a layer or model.

    `keras_norm.optimizers.MultiplierOptimizer` then trains the variable with

        learning rate = lr * learning rate of the optimizer
        L2 factor = l2 * l2 of the optimizer
        weight decay = weight_decay * weight decay of the inner optimizer

    Other optimizers ignore multipliers. A multiplier can be a number, or a
    `keras.optimizers.schedules.LearningRateSchedule` of the inner optimizer's iterations.
    Multipliers are read when a training step is traced: compile the model again after a change,
    as with `trainable`. The values of a schedule change without that.

    Args:
        variable_or_layer: A Keras variable, layer or model. A layer must be built.
        lr: Factor on the learning rate: a finite number >= 0, or a schedule of such numbers. None
            leaves the multiplier unchanged.
        l2: Same, for the L2 factor.
        weight_decay: Same, for decoupled weight decay. 0 excludes the variable.

    Raises:
        TypeError: If the first argument is neither a variable nor a layer, or a multiplier is
            neither a number nor a schedule.
        ValueError: If a multiplier, or a value of a schedule at one of the steps 0, 1, 10, 100
            and so on up to a million, or in an interval of a `PiecewiseConstantDecay`, is negative
            or not finite, or the layer has no weights yet.

    Example:
    >>> import keras, keras_norm
    >>> dense = keras.layers.Dense(3)
    >>> dense.build((None, 4))
    >>> keras_norm.set_multipliers(dense, lr=0.1)
    >>> keras_norm.set_multipliers(dense.bias, l2=0)
    >>> dense.bias.lr_multiplier, dense.bias.l2_multiplier
    (0.1, 0.0)
    >>> unfrozen_later = keras.optimizers.schedules.PiecewiseConstantDecay([999], [0.0, 1.0])
    >>> keras_norm.set_multipliers(dense.kernel, lr=unfrozen_later)

    Reference:
        MATLAB's factors,
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.layer.setlearnratefactor.html
    """
    given = zip(("lr", "l2", "weight_decay"), KINDS, (lr, l2, weight_decay), strict=True)
    checked = {
        kind: checked_multiplier(name, value) for name, kind, value in given if value is not None
    }
    for variable in _variables(variable_or_layer):
        for kind, value in checked.items():
            setattr(variable, kind, value)


_NORMALIZATION = re.compile(r".*Norm(alization)?\d*[dD]?")


def exclude_norms_and_biases(model):
    """Excludes biases and the parameters of normalization layers from weight decay and L2.

    The function sets their weight-decay and L2 multipliers to 0, for
    `keras_norm.optimizers.MultiplierOptimizer`. A bias is a variable whose name is `bias` or ends
    in `_bias`. A layer counts as normalization if its class or a parent class is called `...Norm`
    or `...Normalization` (also `...Norm2d`), as in this package, Keras and KerasHub. Wrappers such
    as `SpectralNormalization` do not count.

    Args:
        model: A built Keras layer or model.

    Returns:
        A list of the excluded variables.

    Raises:
        TypeError: If `model` is not a Keras layer or model.
        ValueError: If it has no weights yet.

    Example:
    >>> import keras, keras_norm
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8),
    ...     keras_norm.BatchNormalization(), keras.layers.Dense(1)])
    >>> [variable.name for variable in keras_norm.exclude_norms_and_biases(model)]
    ['bias', 'gamma', 'beta', 'bias']

    Reference:
        He et al., "Bag of tricks for image classification with convolutional neural networks",
        2019, https://arxiv.org/abs/1812.01187
    """
    known = {id(variable) for variable in weights_of("model", "layer or model", model)}
    _keras.check_models()
    excluded = {}
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            if id(variable) in known and (
                _is_normalization(layer) or re.fullmatch(r"(.*_)?bias", variable.name)
            ):
                excluded[id(variable)] = variable
    for variable in excluded.values():
        set_multipliers(variable, l2=0.0, weight_decay=0.0)
    return list(excluded.values())


def _is_normalization(layer):
    if isinstance(layer, keras.layers.Wrapper):
        return False
    return any(_NORMALIZATION.fullmatch(kind.__name__) for kind in type(layer).__mro__)


def restore(variable, saved):
    """Sets the saved multipliers of `variable` that are not set yet."""
    for kind, value in zip(KINDS, saved, strict=True):
        if not hasattr(variable, kind):
            setattr(variable, kind, value)


def _variables(variable_or_layer):
    if isinstance(variable_or_layer, keras.Variable):
        return [variable_or_layer]
    return weights_of("variable_or_layer", "variable or layer", variable_or_layer)


def weights_of(argument, accepted, layer, kind=keras.layers.Layer):
    """Returns the weights of a built layer.

    Raises:
        TypeError: If it is not an instance of `kind`.
        ValueError: If it has no weights yet.
    """
    if not isinstance(layer, kind):
        raise TypeError(
            f"Argument `{argument}` must be a Keras {accepted}. "
            f"Received: {_validation.shown(layer)} (of type {type(layer).__name__})"
        )
    if not layer.weights:
        raise no_weights(layer)
    return layer.weights


def no_weights(layer):
    """Returns the error for a layer without weights."""
    return ValueError(
        f"Layer '{layer.name}' has no weights to set multipliers of. "
        "Build it first: call it on an input, or call `build(input_shape)`."
    )
