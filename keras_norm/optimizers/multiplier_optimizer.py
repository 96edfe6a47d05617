"""`MultiplierOptimizer`: learning rate, L2 factor and weight decay of every variable."""

import functools
import json
import warnings
from typing import Any

import keras

from keras_norm import _validation, multipliers
from keras_norm.optimizers import hooks, maps, rehearsal, report, state
from keras_norm.optimizers.views import per_variable
from keras_norm.optimizers.wrapper import OptimizerWrapper


@keras.saving.register_keras_serializable(package="keras_norm")
class MultiplierOptimizer(OptimizerWrapper):
    """Gives every variable its own learning rate, L2 factor and decay, under any Keras optimizer.

    A variable `w` with the multipliers `lr_multiplier`, `l2_multiplier` and
    `weight_decay_multiplier` is updated as the inner optimizer, alone on this variable, would
    update it with

        learning rate = lr_multiplier * inner_optimizer.learning_rate
        gradient = gradient + l2_multiplier * l2 * w
        weight decay = weight_decay_multiplier * inner_optimizer.weight_decay

    The second line is the penalty `l2_multiplier * l2 / 2 * sum(w ** 2)` on the loss. A variable
    has the multipliers that it was given by `keras_norm.set_multipliers`, or by the arguments
    `gamma_lr_multiplier` and the like of the layers of `keras_norm`; those without have 1. A
    variable with a learning-rate multiplier of 0 stays as it is, to the last bit; with 1 it is
    updated exactly as without this wrapper.

    A multiplier can be a `keras.optimizers.schedules.LearningRateSchedule`: it gets the count that
    a schedule as the inner optimizer's own learning rate gets, which under gradient accumulation
    is that of batches. Where the schedule of a learning rate gives 0 the variable stays as it is,
    to the last bit; its optimizer state (momentum, moving averages) may move.

    The learning rate (a schedule, a callback that sets it), weight decay, clipping, gradient
    accumulation and moving averages are the inner optimizer's: set them there. The L2 term joins
    the gradient before clipping, and `global_clipnorm` is taken over all variables together.
    For automatic loss scaling put `keras.optimizers.LossScaleOptimizer` around this optimizer.

    Multipliers are read when a training step is traced: compile the model again after a change,
    as with `trainable`. They are saved with the optimizer, also those that were set by hand, once
    it is built: by the first step, or by `optimizer.build(model.trainable_variables)`.

    `l2` is apart from decoupled weight decay (`weight_decay`, as in `AdamW`), which shrinks the
    variables at the inner optimizer's own factor times their learning rate. An L2 multiplier of 0
    does not stop weight decay: a weight-decay multiplier of 0 does, as does
    `exclude_from_weight_decay`. A learning-rate multiplier of 0 stops both.

    When it is built it checks that the installed Keras still calls what it overrides, by a step of
    a throw-away optimizer with two small variables.

    Args:
        inner_optimizer: The Keras optimizer that does the work.
        l2: Global L2 factor, a finite number >= 0. Gradients of embeddings that are sparse on
            TensorFlow become dense by it: the penalty is on all rows. Give those variables the
            L2 multiplier 0 to keep them sparse.
        lr_multipliers: Dictionary from a variable's path, or from a regular expression that
            matches all of it, to the multiplier of the variable's learning rate. It wins over
            what the variable carries.
        l2_multipliers: The like for the multiplier of `l2`.
        weight_decay_multipliers: The like for the multiplier of the inner optimizer's weight
            decay.
        name: Name of the optimizer.

    Raises:
        TypeError: If `inner_optimizer` is no Keras optimizer, or one that goes around this one,
            or an argument has the wrong type.
        ValueError: If a number is negative or not finite, an argument belongs to the inner
            optimizer, `weight_decay_multipliers` are given and the inner optimizer has no weight
            decay, or, at build, a pattern matches no variable, two match one, or a variable
            carries a weight-decay multiplier other than 0 and 1 and there is no weight decay.
        RuntimeError: At build, if the installed Keras does not call what this class overrides.

    Example:
    >>> import keras, keras_norm
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, name="backbone"),
    ...     keras.layers.Dense(2, name="head"),
    ... ], name="model")
    >>> keras_norm.set_multipliers(model.get_layer("head").bias, l2=0)
    >>> optimizer = keras_norm.optimizers.MultiplierOptimizer(
    ...     keras.optimizers.Adam(0.001), l2=0.0001, lr_multipliers={"(.*/)?backbone/.*": 0.1}
    ... )
    >>> model.compile(optimizer, "mse")
    >>> optimizer.build(model.trainable_variables)
    >>> optimizer.summary()
    variable               learning rate      L2  weight decay
    model/backbone/kernel         0.0001  0.0001             0
    model/backbone/bias           0.0001  0.0001             0
    model/head/kernel              0.001  0.0001             0
    model/head/bias                0.001       0             0

    Reference:
        Loshchilov and Hutter, "Decoupled weight decay regularization", 2019,
        https://arxiv.org/abs/1711.05101, on the difference between an L2 penalty and weight decay
    """

    def __init__(
        self,
        inner_optimizer,
        l2=0.0,
        lr_multipliers=None,
        l2_multipliers=None,
        weight_decay_multipliers=None,
        name=None,
        **kwargs,
    ):
        _check_inner(inner_optimizer)
        _check_no_more(kwargs, inner_optimizer)
        super().__init__(inner_optimizer, name=name)
        self.l2 = _validation.real("l2", l2, low=0.0)
        self.lr_multipliers = maps.check("lr_multipliers", lr_multipliers)
        self.l2_multipliers = maps.check("l2_multipliers", l2_multipliers)
        self.weight_decay_multipliers = maps.check(
            "weight_decay_multipliers", weight_decay_multipliers
        )
        if self.weight_decay_multipliers and self.weight_decay is None:
            raise _no_weight_decay(
                inner_optimizer, f"weight_decay_multipliers={weight_decay_multipliers!r}"
            )
        self._saved: Any = None
        # For each kind the pattern that each variable's multiplier comes from, or None.
        self._by_map: Any = {}

    def build(self, variables):
        """Builds the inner optimizer on `variables` and finds out which patterns match which.

        A built optimizer is built again where the variables are others than before, as after a
        change of `trainable`: those that stay keep their state, and the step count goes on.

        Raises:
            ValueError: If no variable stays: another model needs a new optimizer.
        """
        # Keras builds the optimizer of an `.h5` file before the model has variables.
        if not variables:
            return
        if self.built:
            self._build_again(variables)
            return
        self.build_inner(variables)
        hooks.check(self.inner_optimizer)
        rehearsal.check(self.inner_optimizer)
        if self._saved is not None and len(self._saved) != len(variables):
            warnings.warn(
                f"The multipliers saved with optimizer '{self.name}' are left out: they belong to "
                f"{len(self._saved)} variables, and it was built on {len(variables)}. Check "
                "`summary()`, and set them again with `keras_norm.set_multipliers`.",
                stacklevel=2,
            )
            self._saved = None
        if self._saved is None:
            self._by_map = self._match(variables)
        else:
            self._restore(variables)
        self._check_weight_decay()
        stepper = per_variable(
            self.inner_optimizer,
            functools.partial(self.multiplier, multipliers.LR),
            self.l2,
            functools.partial(self.multiplier, multipliers.L2),
            functools.partial(self.multiplier, multipliers.WEIGHT_DECAY),
        )
        # Its methods only: Keras saves every optimizer that it finds as an attribute.
        self._apply = stepper.apply
        self._stateless_apply = stepper.stateless_apply
        self.built = True

    def _build_again(self, variables):
        key = self.inner_optimizer._var_key
        before = {key(variable): i for i, variable in enumerate(self._trainable_variables)}
        # Each pattern matched a variable once, which may be frozen now.
        by_map = self._match(variables, every=False)
        for index, variable in enumerate(variables):
            if key(variable) in before:
                for kind in multipliers.KINDS:
                    by_map[kind][index] = self._by_map[kind][before[key(variable)]]
        self.build_inner(variables)
        self._by_map = by_map
        self._check_weight_decay()

    def apply(self, grads, trainable_variables=None):
        """Updates the variables, as `keras.optimizers.Optimizer.apply` does."""
        if len(grads) == 0:
            return
        if not self.built:
            if trainable_variables is None:
                raise ValueError(
                    "When passing `grads` without `trainable_variables`, the optimizer must be "
                    "built. Call `optimizer.build(trainable_variables)` first."
                )
            trainable_variables = list(trainable_variables)
            self.build(trainable_variables)
        self._apply(grads, trainable_variables)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """Returns updated values, as `keras.optimizers.Optimizer.stateless_apply` does."""
        if not self.built:
            raise ValueError(
                "To call `stateless_apply`, the optimizer must be built. "
                "Call `optimizer.build(trainable_variables)` first."
            )
        if len(trainable_variables) != len(self._trainable_variables):
            raise ValueError(
                f"Optimizer '{self.name}' was built with {len(self._trainable_variables)} "
                f"variables. Received: {len(trainable_variables)} values. {state.CHANGED}"
            )
        for value, variable in zip(trainable_variables, self._trainable_variables, strict=True):
            if tuple(value.shape) != tuple(variable.shape):
                raise ValueError(
                    f"Optimizer '{self.name}' was built on other variables: it received a value "
                    f"of shape {tuple(value.shape)} for '{report.path(variable)}', whose shape is "
                    f"{tuple(variable.shape)}. {state.CHANGED}"
                )
        return self._stateless_apply(optimizer_variables, grads, trainable_variables)

    def summary(self, group=False):
        """Prints the learning rate as it is now, L2 factor and weight decay of each variable.

        Args:
            group: Boolean, whether rows with the same three numbers are put together, in one row
                with the first variable's path and how many follow.

        Raises:
            ValueError: If the optimizer is not built, and so has no variables yet.
        """
        print(report.table(self, group))

    def get_config(self):
        """Returns the arguments, and the multipliers of the variables by position."""
        return {
            "name": self.name,
            "inner_optimizer": _portable(keras.saving.serialize_keras_object(self.inner_optimizer)),
            "l2": self.l2,
            **{
                f"{kind}s": {
                    pattern: multipliers.serialize(value)
                    for pattern, value in self._map(kind).items()
                }
                for kind in multipliers.KINDS
            },
            "multipliers": self._multipliers_by_position(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Returns the optimizer that `get_config` described."""
        config = dict(config)
        saved = config.pop("multipliers", None)
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            _portable(config["inner_optimizer"]), custom_objects=custom_objects
        )
        with keras.saving.custom_object_scope(custom_objects or {}):
            optimizer = cls(**config)
            optimizer._saved = _deserialized(saved)
        return optimizer

    def multiplier(self, kind, index):
        """Returns a multiplier of the variable at a position: by a map, else what it carries."""
        pattern = self.pattern(kind, index)
        if pattern is None:
            return multipliers.of(self._trainable_variables[index], kind)
        # A file of version 0.1.0 may hold the multiplier itself.
        return self._map(kind).get(pattern, pattern)

    def pattern(self, kind, index):
        """Returns the pattern that a multiplier of the variable at a position comes from."""
        return self._by_map[kind][index]

    def _map(self, kind):
        return getattr(self, f"{kind}s")

    def _match(self, variables, every=True):
        paths = [report.path(variable) for variable in variables]
        return {
            kind: maps.match(f"{kind}s", self._map(kind), paths, every)
            for kind in multipliers.KINDS
        }

    def _check_weight_decay(self):
        if self.weight_decay is not None:
            return
        for index, variable in enumerate(self._trainable_variables):
            factor = self.multiplier(multipliers.WEIGHT_DECAY, index)
            if factor not in (0.0, 1.0):
                raise _no_weight_decay(
                    self.inner_optimizer,
                    f"the weight-decay multiplier {factor!r} of '{report.path(variable)}'",
                )

    # Keras drops what variables carry in files and copies, and paths are neither unique nor the
    # same in a loaded model: positions among the variables that are trainable are. A row is what
    # a variable carries and the patterns that win, of learning rate and L2, then of weight decay.
    def _multipliers_by_position(self):
        if not self.built:
            return _serialized(self._saved)
        rows = []
        for index, variable in enumerate(self._trainable_variables):
            if getattr(variable, "trainable", True):
                carried = [multipliers.of(variable, kind) for kind in multipliers.KINDS]
                mapped = [self._by_map[kind][index] for kind in multipliers.KINDS]
                rows.append([*carried[:2], *mapped[:2], carried[2], mapped[2]])
        return _serialized(rows)

    def _restore(self, variables):
        for variable, (lr, l2, _, _, weight_decay, _) in zip(variables, self._saved, strict=True):
            multipliers.restore(variable, (lr, l2, weight_decay))
        for kind, column in zip(multipliers.KINDS, (2, 3, 5), strict=True):
            # Version 0.1.0 saved multipliers in place of patterns.
            patterns = {value: pattern for pattern, value in self._map(kind).items()}
            saved = [row[column] for row in self._saved]
            self._by_map[kind] = [patterns.get(pattern, pattern) for pattern in saved]


def _serialized(rows):
    return rows and [[multipliers.serialize(value) for value in row] for row in rows]


def _deserialized(rows):
    """Returns saved rows with schedules in them, one for all equal ones."""
    if rows is None:
        return None
    made: dict = {}

    def value(given):
        if not isinstance(given, dict):
            return given
        key = json.dumps(given, sort_keys=True)
        if key not in made:
            made[key] = keras.saving.deserialize_keras_object(given)
        return made[key]

    # Version 0.1.0 knew no multipliers of weight decay.
    return [[value(given) for given in (*row, 1.0, None)[:6]] for row in rows]


def _portable(config):
    """Returns the configuration of an optimizer with a class that every backend has.

    Keras on PyTorch writes the class of its own module, which other backends cannot import.
    """
    if not str(config.get("module")).startswith("keras.src.backend."):
        return config
    if not hasattr(keras.optimizers, config["class_name"]):
        return config
    return {**config, "module": "keras.optimizers", "registered_name": None}


def _no_weight_decay(optimizer, received):
    kind = type(optimizer).__name__
    return ValueError(
        f"A weight-decay multiplier needs an inner optimizer with weight decay: "
        f"`{kind}(weight_decay=...)`. Received: {received}, with a {kind} without"
    )


def _check_inner(optimizer):
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "Argument `inner_optimizer` must be a Keras optimizer, such as "
            f"`keras.optimizers.Adam(0.001)`. Received: {optimizer!r} "
            f"(of type {type(optimizer).__name__})"
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise TypeError(
            "MultiplierOptimizer does not go around a LossScaleOptimizer, but inside it: "
            "`LossScaleOptimizer(MultiplierOptimizer(optimizer))`."
        )
    if isinstance(optimizer, MultiplierOptimizer):
        raise TypeError(
            "MultiplierOptimizer does not go around another MultiplierOptimizer. "
            "Give all multipliers to one."
        )
    # Keras has it from 3.15 on.
    multi_optimizer = getattr(keras.optimizers, "MultiOptimizer", ())
    if isinstance(optimizer, multi_optimizer):
        raise TypeError(
            "MultiplierOptimizer does not go around a MultiOptimizer, whose parts have no common "
            "learning rate. Wrap its parts instead, each in a MultiplierOptimizer."
        )


def _check_no_more(kwargs, inner_optimizer):
    for name, value in kwargs.items():
        if name in inner_optimizer.get_config():
            kind = type(inner_optimizer).__name__
            raise ValueError(
                f"Argument `{name}` belongs to the inner optimizer: "
                f"`MultiplierOptimizer({kind}({name}=...))`. Received: {name}={value!r}"
            )
        raise TypeError(
            f"MultiplierOptimizer takes no argument `{name}`. Received: {name}={value!r}"
        )
