"""`MultiplierOptimizer`: a learning rate, L2 factor and weight decay for every variable."""

import functools
import warnings
from typing import Any

import keras

from keras_norm import _validation, multipliers
from keras_norm.optimizers import arguments, configs, hooks, maps, rehearsal, report, state
from keras_norm.optimizers.proxies import per_variable
from keras_norm.optimizers.wrapper import OptimizerWrapper


@keras.saving.register_keras_serializable(package="keras_norm")
class MultiplierOptimizer(OptimizerWrapper):
    """Wraps a Keras optimizer, with a learning rate, L2 factor and weight decay per variable.

    A variable `w` with the multipliers `lr_multiplier`, `l2_multiplier` and
    `weight_decay_multiplier` is updated as the inner optimizer, alone on this variable, would
    update it with

        learning rate = lr_multiplier * inner_optimizer.learning_rate
        gradient = gradient + l2_multiplier * l2 * w
        weight decay = weight_decay_multiplier * inner_optimizer.weight_decay

    The second line is the penalty `l2_multiplier * l2 / 2 * sum(w ** 2)` on the loss. Multipliers
    are set by `keras_norm.set_multipliers`, or by arguments of the layers of `keras_norm` such as
    `gamma_lr_multiplier`; the default is 1. A variable with a learning-rate multiplier of 0 does
    not change by a single bit; with 1, the update is exactly that of the inner optimizer.

    A multiplier can be a `keras.optimizers.schedules.LearningRateSchedule`. Its argument is the
    step count that a schedule of the inner optimizer gets; with gradient accumulation, this is the
    number of batches. While the schedule of a learning rate is 0, the variable does not change by
    a single bit, but its optimizer state (momentum, moving averages) may change.

    The learning rate (including schedules, and callbacks that set it), weight decay, clipping,
    gradient accumulation and moving averages belong to the inner optimizer: set them there. The L2
    term is added to the gradient before clipping, and `global_clipnorm` spans all variables. For
    automatic loss scaling, wrap this optimizer in a `keras.optimizers.LossScaleOptimizer`.

    Multipliers are read when a training step is traced: compile the model again after a change,
    as with `trainable`. All multipliers, including those set by hand, are saved with a built
    optimizer. The first step builds it, or `optimizer.build(model.trainable_variables)`.

    `l2` differs from decoupled weight decay (`weight_decay`, as in `AdamW`), which shrinks the
    variables by the inner optimizer's factor times their learning rate. An L2 multiplier of 0 does
    not stop weight decay. A weight-decay multiplier of 0 does, and so does
    `exclude_from_weight_decay`. A learning-rate multiplier of 0 stops both.

    `build` checks that the installed Keras still calls the methods that this class overrides, by a
    step of a throw-away optimizer with two small variables.

    Args:
        inner_optimizer: The Keras optimizer to wrap.
        l2: Global L2 factor, a finite number >= 0. It makes sparse gradients of embeddings on
            TensorFlow dense, as the penalty affects all rows. To keep a gradient sparse, give the
            variable the L2 multiplier 0.
        lr_multipliers: Dictionary from a variable's path, or from a regular expression that
            matches the whole path, to the multiplier of the variable's learning rate. It overrides
            the variable's own multiplier.
        l2_multipliers: Same, for the multiplier of `l2`.
        weight_decay_multipliers: Same, for the multiplier of the inner optimizer's weight decay.
        name: Name of the optimizer.

    Raises:
        TypeError: If `inner_optimizer` is not a Keras optimizer, or is one that must wrap this
            one, or an argument has the wrong type.
        ValueError: If a number is negative or not finite, an argument belongs to the inner
            optimizer, or `weight_decay_multipliers` are given and the inner optimizer has no
            weight decay. At build, if a pattern matches no variable, two patterns match the same
            variable, or a variable has a weight-decay multiplier other than 0 and 1 without
            weight decay.
        RuntimeError: At build, if the installed Keras does not call the overridden methods.

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
        arguments.check_inner_optimizer(inner_optimizer)
        arguments.check_no_more(kwargs, inner_optimizer)
        super().__init__(inner_optimizer, name=name)
        self.l2 = _validation.real("l2", l2, low=0.0)
        self.lr_multipliers = maps.checked_map("lr_multipliers", lr_multipliers)
        self.l2_multipliers = maps.checked_map("l2_multipliers", l2_multipliers)
        self.weight_decay_multipliers = maps.checked_map(
            "weight_decay_multipliers", weight_decay_multipliers
        )
        if self.weight_decay_multipliers and not state.decays(inner_optimizer):
            raise arguments.no_weight_decay(
                inner_optimizer,
                f"weight_decay_multipliers={_validation.shown(weight_decay_multipliers)}",
            )
        self._saved: Any = None
        # For each kind, the pattern that matches each variable, or None.
        self._by_map: Any = {}

    def build(self, variables):
        """Builds the inner optimizer on `variables` and matches the patterns with their paths.

        A built optimizer is built again if the set of variables has changed, for example after a
        change of `trainable`. Variables that remain keep their state, and the step count continues.

        Raises:
            ValueError: If no variable remains: another model needs a new optimizer.
        """
        # Keras builds the optimizer of an `.h5` file before the model has variables.
        if not variables:
            return
        if self.built:
            self._build_again(variables)
            return
        self.build_inner(variables)
        hooks.check_hooks(self.inner_optimizer)
        rehearsal.check_step(self.inner_optimizer)
        if self._saved is not None and len(self._saved) != len(variables):
            warnings.warn(
                f"The multipliers saved with optimizer '{self.name}' are ignored: they belong to "
                f"{len(self._saved)} variables, and it was built on {len(variables)}. Check "
                "`summary()`, and set them again with `keras_norm.set_multipliers`.",
                stacklevel=2,
            )
            # Paths in a loaded model differ: an error would make the file unreadable.
            self._saved = None
            self._by_map = self._match(variables, every=False)
        elif self._saved is None:
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
        # Only its methods are attributes: Keras would save an optimizer that is an attribute.
        self._apply = stepper.apply
        self._stateless_apply = stepper.stateless_apply
        self.built = True

    def _build_again(self, variables):
        key = self.inner_optimizer._var_key
        before = {key(variable): i for i, variable in enumerate(self._trainable_variables)}
        # A pattern may match no variable now, if its variables are frozen.
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
                    f"of shape {tuple(value.shape)} for '{state.path(variable)}', whose shape is "
                    f"{tuple(variable.shape)}. {state.CHANGED}"
                )
        return self._stateless_apply(optimizer_variables, grads, trainable_variables)

    def summary(self, group=False):
        """Prints the current learning rate, L2 factor and weight decay of each variable.

        Args:
            group: Boolean, whether to join rows with the same three numbers. The joined row has
                the first variable's path and the number of further variables.

        Raises:
            ValueError: If the optimizer is not built, so that it has no variables yet.
        """
        print(report.table(self, group))

    def get_config(self):
        """Returns the arguments, and the multipliers of the variables by position."""
        return {
            "name": self.name,
            "inner_optimizer": configs.portable(
                keras.saving.serialize_keras_object(self.inner_optimizer)
            ),
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
            configs.portable(config["inner_optimizer"]), custom_objects=custom_objects
        )
        with keras.saving.custom_object_scope(custom_objects or {}):
            optimizer = cls(**config)
            optimizer._saved = configs.deserialized_rows(saved)
        return optimizer

    def multiplier(self, kind, index):
        """Returns a multiplier of the variable at a position: from a map, else its own."""
        pattern = self.pattern(kind, index)
        if pattern is None:
            return multipliers.of(self._trainable_variables[index], kind)
        return self._map(kind)[pattern]

    def pattern(self, kind, index):
        """Returns the pattern that sets a multiplier of the variable at a position; or None."""
        return self._by_map[kind][index]

    def _map(self, kind):
        return getattr(self, f"{kind}s")

    def _match(self, variables, every=True):
        paths = [state.path(variable) for variable in variables]
        return {
            kind: maps.match(f"{kind}s", self._map(kind), paths, every)
            for kind in multipliers.KINDS
        }

    def _check_weight_decay(self):
        if state.decays(self.inner_optimizer):
            return
        for index, variable in enumerate(self._trainable_variables):
            factor = self.multiplier(multipliers.WEIGHT_DECAY, index)
            if factor not in (0.0, 1.0):
                raise arguments.no_weight_decay(
                    self.inner_optimizer,
                    f"the weight-decay multiplier {factor!r} of '{state.path(variable)}'",
                )

    # Keras drops attributes of variables in files and copies. Paths are not unique and change in a
    # loaded model, but positions among the trainable variables do not. A row has the variable's own
    # multipliers and the patterns that override them: for learning rate and L2, then weight decay.
    def _multipliers_by_position(self):
        if not self.built:
            return configs.serialized_rows(self._saved)
        rows = []
        for index, variable in enumerate(self._trainable_variables):
            if getattr(variable, "trainable", True):
                carried = [multipliers.of(variable, kind) for kind in multipliers.KINDS]
                mapped = [self._by_map[kind][index] for kind in multipliers.KINDS]
                rows.append([*carried[:2], *mapped[:2], carried[2], mapped[2]])
        return configs.serialized_rows(rows)

    def _restore(self, variables):
        for variable, (lr, l2, _, _, weight_decay, _) in zip(variables, self._saved, strict=True):
            multipliers.restore(variable, (lr, l2, weight_decay))
        for kind, column in zip(multipliers.KINDS, (2, 3, 5), strict=True):
            # Version 0.1.0 saved multipliers in place of patterns.
            patterns = {value: pattern for pattern, value in self._map(kind).items()}
            saved = [row[column] for row in self._saved]
            self._by_map[kind] = [patterns.get(pattern, pattern) for pattern in saved]
