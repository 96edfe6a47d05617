"""MATLAB's `trainingOptions`, with checks, and the corresponding arguments of Keras."""

import dataclasses
import math
import numbers
import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_norm import _name_value, _validation
from keras_norm.matlab.rmsprop import MatlabRMSprop


@dataclasses.dataclass(frozen=True)
class Option:
    """One training option.

    Attributes:
        default: MATLAB's default.
        check: Function of the option's name and a value that returns the checked value.
        argument: The corresponding argument of the Keras optimizer, if there is one.
    """

    default: Any
    check: Callable[[str, Any], Any]
    argument: str | None = None


def _number(**limits):
    return lambda name, value: _validation.real(name, value, **limits)


def _one_of(*choices):
    return lambda name, value: _name_value.choice(name, value, choices)


def _threshold(name, value):
    if isinstance(value, float) and value == math.inf:
        return math.inf
    return _validation.real(name, value, above=0.0)


def _logical(name, value):
    if isinstance(value, numbers.Real | np.bool_) and value in (0, 1):
        return bool(value)
    raise ValueError(
        f"`{name}` must be true or false, 1 or 0. Received: {name}={_validation.shown(value)}"
    )


def _data(name, value):
    if value is None or _name_value.is_empty(value):
        return None
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return tuple(value)
    entries = f" with {len(value)} entries" if isinstance(value, (list, tuple)) else ""
    raise ValueError(
        f"`{name}` must be a pair of inputs and targets, or [] for none. "
        f"Received: a value of type {type(value).__name__}{entries}"
    )


_FRACTION = _number(low=0.0, high=1.0)
_DECAY = _number(low=0.0, below=1.0)


def _rate(default):
    return {"InitialLearnRate": Option(default, _number(above=0.0), "learning_rate")}


_SOLVER_OPTIONS = {
    "sgdm": {**_rate(0.01), "Momentum": Option(0.9, _FRACTION, "momentum")},
    "adam": {
        **_rate(0.001),
        "GradientDecayFactor": Option(0.9, _DECAY, "beta_1"),
        "SquaredGradientDecayFactor": Option(0.999, _DECAY, "beta_2"),
        "Epsilon": Option(1e-8, _number(above=0.0), "epsilon"),
    },
    "rmsprop": {
        **_rate(0.001),
        "SquaredGradientDecayFactor": Option(0.9, _DECAY, "rho"),
        "Epsilon": Option(1e-8, _number(above=0.0), "epsilon"),
    },
}
_OPTIMIZERS = {
    "sgdm": keras.optimizers.SGD,
    "adam": keras.optimizers.Adam,
    "rmsprop": MatlabRMSprop,
}
_THRESHOLD_METHODS = {
    "l2norm": "clipnorm",
    "global-l2norm": "global_clipnorm",
    "absolute-value": "clipvalue",
}
_COMMON_OPTIONS = {
    "LearnRateSchedule": Option("none", _one_of("none", "piecewise")),
    "LearnRateDropFactor": Option(0.1, _FRACTION),
    "LearnRateDropPeriod": Option(10, _name_value.positive_integer),
    "MaxEpochs": Option(30, _name_value.positive_integer),
    "MiniBatchSize": Option(128, _name_value.positive_integer),
    "Shuffle": Option("once", _one_of("once", "never", "every-epoch")),
    "L2Regularization": Option(1e-4, _number(low=0.0)),
    "GradientThreshold": Option(math.inf, _threshold),
    "GradientThresholdMethod": Option("l2norm", _one_of(*_THRESHOLD_METHODS)),
    "ValidationData": Option(None, _data),
    "Verbose": Option(True, _logical),
    "Plots": Option("none", _one_of("none", "training-progress")),
    "BatchNormalizationStatistics": Option("auto", _one_of("population", "moving", "auto")),
}


class TrainingOptions:
    """Options for `trainnet`: attributes with MATLAB's names, which check what is assigned."""

    def __init__(self, solver, values):
        vars(self)["SolverName"] = solver
        for name, option in self._table.items():
            setattr(self, name, values.get(name, option.default))

    @property
    def _table(self):
        return {**_SOLVER_OPTIONS[self.SolverName], **_COMMON_OPTIONS}

    def __setattr__(self, name, value):
        if name not in self._table:
            raise AttributeError(
                f"Training options for '{self.SolverName}' have no {_validation.shown(name)}."
                f"{_name_value.hint(name, self._table)} They have: {', '.join(self._table)}"
            )
        vars(self)[name] = self._table[name].check(name, value)

    if TYPE_CHECKING:  # the options in the tables

        def __getattr__(self, name: str) -> Any: ...

    def __repr__(self):
        width = 4 + max(map(len, vars(self)))
        rows = [f"{name:>{width}}: {reprlib.repr(value)}" for name, value in vars(self).items()]
        return "\n".join(["TrainingOptions with properties:", *rows])

    def optimizer(self):
        """Returns the Keras optimizer that the options describe."""
        arguments = {
            option.argument: getattr(self, name)
            for name, option in _SOLVER_OPTIONS[self.SolverName].items()
        }
        if self.GradientThreshold < math.inf:
            arguments[_THRESHOLD_METHODS[self.GradientThresholdMethod]] = self.GradientThreshold
        return _OPTIMIZERS[self.SolverName](**arguments)

    def learning_rate(self, epoch):
        """Returns the learning rate in an epoch, counted from 0."""
        if self.LearnRateSchedule == "none":
            return self.InitialLearnRate
        drops = epoch // self.LearnRateDropPeriod
        return self.InitialLearnRate * self.LearnRateDropFactor**drops


def trainingOptions(solverName, *pairs, **options):
    """Returns options for `trainnet`.

    Args:
        solverName: "sgdm" (stochastic gradient descent with momentum), "adam" or "rmsprop".
        *pairs: Options as names and values: `"MaxEpochs", 5, "Verbose", False`.
        **options: Options as keywords: `MaxEpochs=5, Verbose=False`.
            InitialLearnRate: Number > 0. Default: 0.01 for "sgdm", else 0.001.
            Momentum: Number in [0, 1], for "sgdm". Default: 0.9.
            GradientDecayFactor: Number in [0, 1), for "adam". Default: 0.9.
            SquaredGradientDecayFactor: Number in [0, 1), for "adam" and "rmsprop". Defaults:
            0.999 and 0.9.
            Epsilon: Number > 0, for "adam" and "rmsprop". Default: 1e-8.
            LearnRateSchedule: "none", or "piecewise" to multiply the learning rate by
            LearnRateDropFactor (default: 0.1) every LearnRateDropPeriod (default: 10) epochs.
            MaxEpochs: Positive integer. Default: 30.
            MiniBatchSize: Positive integer. Default: 128.
            Shuffle: "once", "never" or "every-epoch". Default: "once".
            L2Regularization: Number >= 0; this number times the parameter's L2 factor times the
            parameter is added to each gradient. Default: 1e-4.
            GradientThreshold: Number > 0. Default: infinity, no clipping.
            GradientThresholdMethod: "l2norm" (each gradient's norm), "global-l2norm" (that of all
            gradients together) or "absolute-value" (each entry). Default: "l2norm".
            ValidationData: Pair of inputs and targets, which are evaluated after each epoch.
            Verbose: Whether to print the progress. Default: True.
            Plots: "none", or "training-progress" for a plot of the loss (needs matplotlib).
            BatchNormalizationStatistics: "population" for the statistics of all of the training
            data, computed in a pass after training; "moving" for moving averages; "auto", the
            default, for "moving".

    Returns:
        A `TrainingOptions`, with the options as attributes that can be assigned to.

    Raises:
        TypeError: If a value is of a wrong type.
        ValueError: If an option is unknown for this solver, twice given or without a value, or a
            value is out of range.

    Example:
    >>> from keras_norm.matlab import trainingOptions
    >>> options = trainingOptions("sgdm", "MaxEpochs", 20, LearnRateSchedule="piecewise")
    >>> options.MaxEpochs, options.Momentum, options.learning_rate(epoch=10)
    (20, 0.9, 0.001)

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/trainingoptions.html
    """
    solver = _name_value.choice("solverName", solverName, tuple(_OPTIMIZERS))
    names = [*_SOLVER_OPTIONS[solver], *_COMMON_OPTIONS]
    function = f"trainingOptions for '{solver}'"
    return TrainingOptions(solver, _name_value.collect(function, names, pairs, options))
