"""Views of an optimizer: it, at other learning rates, with nothing in it changed.

Keras's optimizers read their learning rate in several places: the update of a variable, the
fused update of many on PyTorch, and decoupled weight decay. A view has the class of the optimizer
with a mixin in front, which overrides those places, and the very state of the optimizer, so that
all views and the optimizer itself are one optimizer with several faces.
"""

# The mixins stand in front of classes that a type checker cannot know.
# mypy: disable-error-code="misc, attr-defined"

from typing import Any

import keras

from keras_norm import engines


def per_variable(optimizer, lr_multiplier, l2):
    """Returns a view of `optimizer` with a learning rate and an L2 factor for each variable.

    Args:
        optimizer: A Keras optimizer.
        lr_multiplier: A function from a variable's position to its learning-rate multiplier.
        l2: A function from a variable's position to its L2 factor.
    """
    at_factor = {1.0: optimizer}
    return _view(optimizer, _PerVariable, lr_multiplier=lr_multiplier, l2=l2, at_factor=at_factor)


def _view(optimizer, mixin, **attributes):
    made: Any = object.__new__(type(mixin.__name__, (mixin, type(optimizer)), attributes))
    object.__setattr__(made, "__dict__", vars(optimizer))
    return made


class _AtFactor:
    """The optimizer at `factor` times its learning rate."""

    factor: float

    def _get_current_learning_rate(self):
        return self.factor * super()._get_current_learning_rate()

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, self.factor * learning_rate)

    def _parallel_update_step(self, grads, variables, learning_rate):
        super()._parallel_update_step(grads, variables, self.factor * learning_rate)


class _PerVariable:
    """The optimizer, which hands each variable to the view at its multiple of the rate."""

    def _multiplier(self, variable):
        return self.lr_multiplier(self._get_variable_index(variable))

    def _at(self, factor):
        if factor not in self.at_factor:
            self.at_factor[factor] = _view(self.at_factor[1.0], _AtFactor, factor=factor)
        return self.at_factor[factor]

    def _groups(self, number, variables):
        """Yields each number but 0 with the positions in `variables` of those that have it."""
        groups: dict[float, list[int]] = {}
        for position, variable in enumerate(variables):
            groups.setdefault(number(self._get_variable_index(variable)), []).append(position)
        groups.pop(0.0, None)
        return groups.items()

    def _backend_apply_gradients(self, grads, trainable_variables):
        # Here gradients are unscaled, but neither clipped nor accumulated yet.
        grads = list(grads)
        # The gradients of TensorFlow's replicas are about to be summed: each brings its share.
        strategy = getattr(self, "_distribution_strategy", None)
        replicas = strategy.num_replicas_in_sync if strategy else 1
        for l2, group in self._groups(self.l2, trainable_variables):
            weights = [keras.ops.convert_to_tensor(trainable_variables[i]) for i in group]
            sums = engines.add_multiples([grads[i] for i in group], weights, l2 / replicas)
            for i, total in zip(group, sums, strict=True):
                grads[i] = total
        super()._backend_apply_gradients(grads, trainable_variables)

    def _apply_weight_decay(self, variables):
        if keras.backend.backend() == "torch":
            # Keras's fused decay cannot do with a group that has nothing to decay.
            variables = [v for v in variables if self._use_weight_decay(v)]
        for factor, group in self._groups(self.lr_multiplier, variables):
            self._at(factor)._apply_weight_decay([variables[i] for i in group])

    def update_step(self, gradient, variable, learning_rate):
        factor = self._multiplier(variable)
        if factor != 0.0:
            self._at(factor).update_step(gradient, variable, learning_rate)

    def _parallel_update_step(self, grads, variables, learning_rate):
        # One fused update for each group of equal multipliers. What an optimizer holds directly,
        # and not in a list over variables (Nadam's momentum product), is common to all groups:
        # each starts from the same value.
        common = [v for v in vars(self).values() if isinstance(v, keras.Variable)]
        before = [keras.ops.copy(v) for v in common]
        for number, (factor, group) in enumerate(self._groups(self.lr_multiplier, variables)):
            if number > 0:
                for variable, value in zip(common, before, strict=True):
                    variable.assign(value)
            self._at(factor)._parallel_update_step(
                [grads[i] for i in group], [variables[i] for i in group], learning_rate
            )

    def _update_model_variables_moving_average(self, trainable_variables):
        super()._update_model_variables_moving_average(trainable_variables)
        # The average of what stays as it is, without the rounding of an average.
        for variable, average in zip(
            trainable_variables, self._model_variables_moving_average, strict=True
        ):
            if average is not None and self._multiplier(variable) == 0.0:
                average.assign(variable)
