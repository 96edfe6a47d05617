"""Checks of the arguments of a `MultiplierOptimizer`."""

import keras

from keras_norm import _validation
from keras_norm.optimizers.wrapper import OptimizerWrapper


def check_inner_optimizer(optimizer):
    """Checks that a `MultiplierOptimizer` can wrap an optimizer.

    Raises:
        TypeError: If it cannot; the message says what to do.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "Argument `inner_optimizer` must be a Keras optimizer, such as "
            f"`keras.optimizers.Adam(0.001)`. Received: {_validation.shown(optimizer)} "
            f"(of type {type(optimizer).__name__})"
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise TypeError(
            "MultiplierOptimizer cannot wrap a LossScaleOptimizer. Use "
            "`LossScaleOptimizer(MultiplierOptimizer(optimizer))`."
        )
    if isinstance(optimizer, OptimizerWrapper):
        raise TypeError(
            "MultiplierOptimizer cannot wrap another MultiplierOptimizer. "
            "Pass all multipliers to one."
        )
    # New in Keras 3.15.
    multi_optimizer = getattr(keras.optimizers, "MultiOptimizer", ())
    if isinstance(optimizer, multi_optimizer):
        raise TypeError(
            "MultiplierOptimizer cannot wrap a MultiOptimizer, whose parts have no common "
            "learning rate. Wrap each part in a MultiplierOptimizer instead."
        )


def check_no_more(kwargs, inner_optimizer):
    """Refuses further arguments, such as those of the inner optimizer.

    Raises:
        TypeError: If no optimizer has an argument.
        ValueError: If an argument belongs to the inner optimizer.
    """
    for name, value in kwargs.items():
        if name in inner_optimizer.get_config():
            kind = type(inner_optimizer).__name__
            raise ValueError(
                f"Argument `{name}` belongs to the inner optimizer: "
                f"`MultiplierOptimizer({kind}({name}=...))`. "
                f"Received: {name}={_validation.shown(value)}"
            )
        raise TypeError(
            f"MultiplierOptimizer takes no argument `{name}`. "
            f"Received: {name}={_validation.shown(value)}"
        )


def no_weight_decay(optimizer, received):
    """Returns the error for a weight-decay multiplier under an optimizer without weight decay."""
    kind = type(optimizer).__name__
    return ValueError(
        f"A weight-decay multiplier needs an inner optimizer with weight decay: "
        f"`{kind}(weight_decay=...)`. Received: {received}, with a {kind} without weight decay"
    )
