"""A synchronized layer on two replicas, the same way on each backend.

`run(cases, folder)` runs every `Case` on two replicas, and returns a `Result` for each.
"""

import importlib
from typing import Any, NamedTuple

import keras

EPSILON = 1e-5
MOMENTUM = 0.5


class Case(NamedTuple):
    """Inputs of a layer, upstream gradients and masks, one of each for each replica."""

    inputs: list
    upstream: list
    masks: list
    gamma: Any
    beta: Any
    engine: str  # how the replicas are connected, one of the backend's ENGINES
    renorm: bool = False


class Result(NamedTuple):
    """Gradients to gamma and beta are summed over the replicas; statistics are a list of each."""

    outputs: list
    to_inputs: list
    to_gamma: Any
    to_beta: Any
    means: list
    variances: list
    messages: (
        int  # reductions over the replicas, forward and backward; None where they cannot be counted
    )


_backend = importlib.import_module(f"{__name__}.on_{keras.backend.backend()}")
ENGINES = _backend.ENGINES
run = _backend.run


def make_layer(case):
    """Returns a built layer."""
    import keras_norm

    layer = keras_norm.BatchNormalization(
        epsilon=EPSILON,
        momentum=MOMENTUM,
        gamma_initializer=case.gamma,
        beta_initializer=case.beta,
        synchronized=True,
        renorm=case.renorm,
    )
    layer.build((None, *case.inputs[0].shape[1:]))
    return layer
