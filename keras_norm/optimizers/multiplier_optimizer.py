"""`MultiplierOptimizer`: a learning rate and an L2 factor for every variable."""

import warnings
from typing import Any

import keras

from keras_norm import _validation, multipliers
from keras_norm.optimizers import maps
from keras_norm.optimizers.views import per_variable
from keras_norm.optimizers.wrapper import OptimizerWrapper


@keras.saving.register_keras_serializable(package="keras_norm")
class MultiplierOptimizer(OptimizerWrapper):
    """Gives every variable its own learning rate and L2 factor, under any Keras optimizer.

    A variable `w` with the multipliers `lr_multiplier` and `l2_multiplier` is updated as the inner
    optimizer, alone on this variable, would update it with

        learning rate = lr_multiplier * inner_optimizer.learning_rate
        gradient = gradient + l2_multiplier * l2 * w

    that is, with the penalty `l2_multiplier * l2 / 2 * sum(w ** 2)` added to the loss. A variable
    has the multipliers that it was given by `keras_norm.set_multipliers`, or by the arguments
    `gamma_lr_multiplier` and the like of the layers of `keras_norm`; those without have 1. A
    variable with a learning-rate multiplier of 0 stays as it is, to the last bit; with 1 it is
    updated exactly as without this wrapper.

    The learning rate (a schedule, a callback that sets it), weight decay, clipping, gradient
    accumulation and moving averages are the inner optimizer's: set them there. The L2 term joins
    the gradient before clipping, and `global_clipnorm` is taken over all variables together.
    For automatic loss scaling put `keras.optimizers.LossScaleOptimizer` around this optimizer.

    Multipliers are read when a training step is traced: compile the model again after a change,
    as with `trainable`. They are saved with the optimizer, also those that were set by hand, once
    it is built: by the first step, or by `optimizer.build(model.trainable_variables)`.

    `l2` is apart from decoupled weight decay (`weight_decay`, as in `AdamW`), which shrinks the
    variables at the inner optimizer's own factor times their learning rate. An L2 multiplier of 0
    does not stop weight decay: `exclude_from_weight_decay` does. A learning-rate multiplier of 0
    stops both.

    Args:
        inner_optimizer: The Keras optimizer that does the work.
        l2: Global L2 factor, a finite number >= 0. Gradients of embeddings that are sparse on
            TensorFlow become dense by it: the penalty is on all rows. Give those variables the
            L2 multiplier 0 to keep them sparse.
        lr_multipliers: Dictionary from a variable's path, or from a regular expression that
            matches all of it, to the multiplier of the variable's learning rate. It wins over
            what the variable carries.
        l2_multipliers: The like for the multiplier of `l2`.
        name: Name of the optimizer.

    Raises:
        TypeError: If `inner_optimizer` is no Keras optimizer, or one that goes around this one,
            or an argument has the wrong type.
        ValueError: If a number is negative or not finite, an argument belongs to the inner
            optimizer, or, at build, a pattern matches no variable or two match one.

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
    variable               learning rate      L2
    model/backbone/kernel         0.0001  0.0001
    model/backbone/bias           0.0001  0.0001
    model/head/kernel              0.001  0.0001
    model/head/bias                0.001       0

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
        name=None,
        **kwargs,
    ):
        _check_inner(inner_optimizer)
        _check_no_more(kwargs, inner_optimizer)
        super().__init__(inner_optimizer, name=name)
        self.l2 = _validation.real("l2", l2, low=0.0)
        self.lr_multipliers = maps.check("lr_multipliers", lr_multipliers)
        self.l2_multipliers = maps.check("l2_multipliers", l2_multipliers)
        self._saved: Any = None
        self._lr_by_map: list[float | None] = []
        self._l2_by_map: list[float | None] = []

    def build(self, variables):
        """Builds the inner optimizer on `variables` and finds out which patterns match which."""
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        self.inner_optimizer._check_variables_are_known(variables)
        if self.built:
            return
        variables = self._trainable_variables
        if self._saved is not None and len(self._saved) != len(variables):
            warnings.warn(
                f"The multipliers saved with optimizer '{self.name}' are left out: they belong to "
                f"{len(self._saved)} variables, and it was built on {len(variables)}. Check "
                "`summary()`, and set them again with `keras_norm.set_multipliers`.",
                stacklevel=2,
            )
            self._saved = None
        if self._saved is None:
            paths = [_path(variable) for variable in variables]
            self._lr_by_map = maps.match("lr_multipliers", self.lr_multipliers, paths)
            self._l2_by_map = maps.match("l2_multipliers", self.l2_multipliers, paths)
        else:
            self._restore(variables)
        stepper = per_variable(self.inner_optimizer, self._lr_multiplier, self._l2)
        # Its methods only: Keras saves every optimizer that it finds as an attribute.
        self._apply = stepper.apply
        self._stateless_apply = stepper.stateless_apply
        self.built = True

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
        for value, variable in zip(trainable_variables, self._trainable_variables, strict=False):
            if tuple(value.shape) != tuple(variable.shape):
                raise ValueError(
                    f"Optimizer '{self.name}' was built on other variables: it received a value "
                    f"of shape {tuple(value.shape)} for '{_path(variable)}', whose shape is "
                    f"{tuple(variable.shape)}. Make a new optimizer for a new model."
                )
        return self._stateless_apply(optimizer_variables, grads, trainable_variables)

    def summary(self):
        """Prints each variable with its learning rate, as it is now, and its L2 factor.

        Raises:
            ValueError: If the optimizer is not built, and so has no variables yet.
        """
        if not self.built:
            raise ValueError(
                "The optimizer has no variables yet. "
                "Call `optimizer.build(model.trainable_variables)` first."
            )
        rate = float(keras.ops.convert_to_numpy(self.learning_rate))
        rows = [("variable", "learning rate", "L2")]
        for i, variable in enumerate(self._trainable_variables):
            numbers = (rate * self._lr_multiplier(i), self._l2(i))
            rows.append((_path(variable), *(f"{number:.6g}" for number in numbers)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for path, lr, l2 in rows:
            print(f"{path:<{widths[0]}}  {lr:>{widths[1]}}  {l2:>{widths[2]}}")

    def get_config(self):
        """Returns the arguments, and the multipliers of the variables by position."""
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "l2": self.l2,
            "lr_multipliers": dict(self.lr_multipliers),
            "l2_multipliers": dict(self.l2_multipliers),
            "multipliers": self._multipliers_by_position(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Returns the optimizer that `get_config` described."""
        config = dict(config)
        saved = config.pop("multipliers", None)
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        optimizer = cls(**config)
        optimizer._saved = saved
        return optimizer

    def _lr_multiplier(self, index):
        mapped = self._lr_by_map[index]
        if mapped is None:
            return multipliers.lr_multiplier(self._trainable_variables[index])
        return mapped

    def _l2(self, index):
        mapped = self._l2_by_map[index]
        if mapped is None:
            return self.l2 * multipliers.l2_multiplier(self._trainable_variables[index])
        return self.l2 * mapped

    # Keras drops what variables carry in files and copies, and paths are neither unique nor the
    # same in a loaded model: positions among the variables that are trainable are.
    def _multipliers_by_position(self):
        if not self.built:
            return self._saved
        return [
            [multipliers.lr_multiplier(v), multipliers.l2_multiplier(v), lr_by_map, l2_by_map]
            for v, lr_by_map, l2_by_map in zip(
                self._trainable_variables, self._lr_by_map, self._l2_by_map, strict=True
            )
            if getattr(v, "trainable", True)
        ]

    def _restore(self, variables):
        for variable, (lr, l2, _, _) in zip(variables, self._saved, strict=True):
            multipliers.restore(variable, lr, l2)
        self._lr_by_map = [row[2] for row in self._saved]
        self._l2_by_map = [row[3] for row in self._saved]


def _path(variable):
    return getattr(variable, "path", variable.name)


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
