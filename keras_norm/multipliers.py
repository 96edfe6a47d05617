"""The learning-rate and L2 multiplier that every Keras variable can carry."""

import keras

from keras_norm import _validation

LR = "lr_multiplier"
L2 = "l2_multiplier"


def lr_multiplier(variable):
    """Returns the factor on the learning rate that `variable` carries; 1.0 where none was set."""
    return getattr(variable, LR, 1.0)


def l2_multiplier(variable):
    """Returns the factor on the L2 factor that `variable` carries; 1.0 where none was set."""
    return getattr(variable, L2, 1.0)


def check(name, value):
    """Returns `value` as a float if it is a finite number >= 0, and raises otherwise."""
    return _validation.real(name, value, low=0.0)


def set_multipliers(variable_or_layer, lr=None, l2=None):
    """Sets the multipliers of a variable, or of every weight of a layer or model.

    `keras_norm.optimizers.MultiplierOptimizer` multiplies its learning rate by `lr` and its
    `l2` by `l2` for each variable. Multipliers are read when a training step is traced: compile
    the model again after a change, as with `trainable`.

    Args:
        variable_or_layer: A Keras variable, layer or model. A layer must be built.
        lr: Factor on the learning rate, a finite number >= 0. None leaves it as it is.
        l2: Factor on the L2 factor, a finite number >= 0. None leaves it as it is.

    Raises:
        TypeError: If the first argument is neither a variable nor a layer, or a multiplier is no
            number.
        ValueError: If a multiplier is negative or not finite, or the layer has no weights yet.

    Example:
    >>> import keras, keras_norm
    >>> dense = keras.layers.Dense(3)
    >>> dense.build((None, 4))
    >>> keras_norm.set_multipliers(dense, lr=0.1)
    >>> keras_norm.set_multipliers(dense.bias, l2=0)
    >>> dense.bias.lr_multiplier, dense.bias.l2_multiplier
    (0.1, 0.0)
    """
    lr = None if lr is None else check("lr", lr)
    l2 = None if l2 is None else check("l2", l2)
    for variable in _variables(variable_or_layer):
        if lr is not None:
            setattr(variable, LR, lr)
        if l2 is not None:
            setattr(variable, L2, l2)


def _variables(variable_or_layer):
    if isinstance(variable_or_layer, keras.Variable):
        return [variable_or_layer]
    if not isinstance(variable_or_layer, keras.layers.Layer):
        raise TypeError(
            "Argument `variable_or_layer` must be a Keras variable or layer. "
            f"Received: {variable_or_layer!r} (of type {type(variable_or_layer).__name__})"
        )
    if not variable_or_layer.weights:
        raise ValueError(
            f"Layer '{variable_or_layer.name}' has no weights to set multipliers of. "
            "Build it first: call it on an input, or call `build(input_shape)`."
        )
    return variable_or_layer.weights
