"""A rehearsal: a step of a throw-away optimizer that checks the effect of multipliers.

Keras may call a hook and still bypass it elsewhere: for example, weight decay could read the
learning rate directly. So a proxy of an optimizer of the same class and configuration updates two
small variables, and an optimizer at the corresponding settings does the same without a proxy.

The rehearsal takes two steps on eight numbers, once for each class and configuration: ten
milliseconds, and the first time in a process up to 0.1 s on TensorFlow and 0.7 s on JAX, which
compiles. It shares no scope, strategy, device, name or random state with the caller.
"""

import json

import keras
import numpy as np

from keras_norm import _keras
from keras_norm.optimizers.proxies import per_variable

# Powers of two, so that both computations round alike. The L2 term reverses the gradient, as some
# optimizers use only its sign. The second variable must not change.
VALUES = np.array([[[2, -2], [-2, 1]], [[1, -1], [0.5, 2]]], "float32")
GRADIENTS = np.array([[[-0.5, 0.5], [0.25, 0.25]], [[0.5, 1], [1, -0.5]]], "float32")
RATE, DECAY, L2 = 0.25, 0.5, 0.5
LR_MULTIPLIER, DECAY_MULTIPLIER = 0.5, 0.25
# Relative to the update: many roundings of float32, and a small part of the effect of each setting.
TOLERANCE = 1e-4

_passed: set = set()


def check_step(optimizer):
    """Checks that a proxy of an optimizer applies the multipliers.

    An optimizer passes if it cannot be created from its configuration, or fails without a proxy.

    Raises:
        RuntimeError: If the proxy does not; the message names Keras's version.
    """
    _keras.apart(_check_step, optimizer)


def _check_step(optimizer):
    try:
        config = optimizer.get_config() | {"learning_rate": RATE, "name": "rehearsal"}
    except Exception:
        return
    # Neither changes what a multiplier does, and both take long to compile on JAX.
    config |= {"gradient_accumulation_steps": None, "use_ema": False}
    if config.get("weight_decay") is not None:
        config["weight_decay"] = DECAY
    kind = type(optimizer)
    key = (kind, json.dumps(config, sort_keys=True, default=repr))
    if key not in _passed:
        _compare(kind, config)
        _passed.add(key)


def _compare(kind, config):
    try:
        expected, _ = _plain(kind, config)
    except Exception:
        return
    cause = None
    try:
        got, still = _by_proxy(kind, config)
    except Exception as error:
        cause = error
    else:
        if _agree(got, expected) and np.array_equal(still, VALUES[1]):
            return
        if not _agree(_plain(kind, config)[0], expected):
            return  # the optimizer's updates are random
    raise _keras.outdated(
        f"a step of `{kind.__name__}` with a learning-rate multiplier, L2 and a weight-decay "
        f"multiplier differs from a step of `{kind.__name__}` at these settings. A custom class "
        "must take its learning rate from the argument of `update_step` or from "
        "`self.learning_rate`, and its weight decay from `self.weight_decay`"
    ) from cause


def _agree(got, expected):
    moved = np.abs(expected - VALUES[0]).max()
    return bool(np.abs(got - expected).max() <= TOLERANCE * moved)


def _by_proxy(kind, config):
    optimizer = kind.from_config(dict(config))
    proxy = per_variable(
        optimizer,
        lr_multiplier=(LR_MULTIPLIER, 0.0).__getitem__,
        l2=L2,
        l2_multiplier=(1.0, 0.0).__getitem__,
        weight_decay_multiplier=(DECAY_MULTIPLIER, 1.0).__getitem__,
    )
    return _step(optimizer, proxy, GRADIENTS)


def _plain(kind, config):
    config = config | {"learning_rate": LR_MULTIPLIER * RATE}
    if config.get("weight_decay") is not None:
        config["weight_decay"] = DECAY_MULTIPLIER * DECAY
    optimizer = kind.from_config(config)
    return _step(optimizer, optimizer, [GRADIENTS[0] + L2 * VALUES[0], GRADIENTS[1]])


def _step(optimizer, stepper, gradients):
    """Returns the values of the variables after a step."""
    names = ("rehearsal_a", "rehearsal_b")
    variables = [
        keras.Variable(value, dtype="float32", name=name)
        for name, value in zip(names, VALUES, strict=True)
    ]
    optimizer.build(variables)
    scale = optimizer.loss_scale_factor or 1
    stepper.apply([keras.ops.convert_to_tensor(scale * g) for g in gradients], variables)
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
