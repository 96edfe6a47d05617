"""Proxies of an optimizer: the same optimizer at other learning rates, without changing it.

Keras's optimizers read their learning rate in several places: the update of a variable, the
fused update of many on PyTorch, and decoupled weight decay. The class of a proxy is the class of
the optimizer with a mixin in front, which overrides these places. All proxies share the state of
the optimizer.
"""

# Type checkers do not know the classes that follow the mixins.
# mypy: disable-error-code="misc, attr-defined"

from typing import Any

import keras

from keras_norm import engines, multipliers
from keras_norm.optimizers import state


def per_variable(optimizer, lr_multiplier, l2, l2_multiplier, weight_decay_multiplier):
    """Returns a proxy of `optimizer` with its own settings for each variable.

    Args:
        optimizer: A Keras optimizer.
        lr_multiplier: A function from a variable's position to its learning-rate multiplier.
        l2: The L2 factor.
        l2_multiplier: Same, for the multiplier of the L2 factor.
        weight_decay_multiplier: Same, for the multiplier of decoupled weight decay.
    """
    return _proxy(
        optimizer,
        _PerVariable,
        # Not methods of the class that they become attributes of.
        lr_multiplier=staticmethod(lr_multiplier),
        l2=l2,
        l2_multiplier=staticmethod(l2_multiplier),
        weight_decay_multiplier=staticmethod(weight_decay_multiplier),
        proxies={(1.0, 1.0): optimizer},
    )


def _proxy(optimizer, mixin, **attributes):
    made: Any = object.__new__(type(mixin.__name__, (mixin, type(optimizer)), attributes))
    object.__setattr__(made, "__dict__", vars(optimizer))
    return made


class _AtFactors:
    """The optimizer at multiples of its learning rate and of its weight decay."""

    factors: tuple
    original: Any

    def _factor(self):
        return multipliers.now(self.factors[0], self._iterations)

    def _decay(self, name):
        decay = getattr(self.original, name)
        if decay is None:
            return None
        return decay * multipliers.now(self.factors[1], self._iterations)

    weight_decay = property(lambda self: self._decay("weight_decay"))
    # Muon's weight decay for the variables that it updates with Adam.
    adam_weight_decay = property(lambda self: self._decay("adam_weight_decay"))

    def _get_current_learning_rate(self):
        return super()._get_current_learning_rate() * self._factor()

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate * self._factor())

    def _parallel_update_step(self, grads, variables, learning_rate):
        super()._parallel_update_step(grads, variables, learning_rate * self._factor())


class _PerVariable:
    """The optimizer that passes each variable to the proxy with its multiplier."""

    def _at(self, factor, decay_factor=1.0):
        factors = (factor, decay_factor)
        if factors not in self.proxies:
            original = self.proxies[1.0, 1.0]
            self.proxies[factors] = _proxy(original, _AtFactors, factors=factors, original=original)
        return self.proxies[factors]

    def _groups(self, multiplier, variables):
        """Returns pairs of a multiplier, except 0, and the positions of its variables."""
        groups: dict[Any, list[int]] = {}
        for position, variable in enumerate(variables):
            groups.setdefault(multiplier(self._get_variable_index(variable)), []).append(position)
        groups.pop(0.0, None)
        return groups.items()

    def _check_variables_are_known(self, variables):
        state.check_known(self, variables)

    def _backend_apply_gradients(self, grads, trainable_variables):
        # Here gradients are unscaled, but neither clipped nor accumulated yet.
        grads = list(grads)
        # The gradients of TensorFlow's replicas will be summed, so each gets a share of the term.
        strategy = getattr(self, "_distribution_strategy", None)
        share = self.l2 / (strategy.num_replicas_in_sync if strategy else 1)
        groups = self._groups(self.l2_multiplier, trainable_variables) if share else ()
        for factor, group in groups:
            sums = engines.add_multiples(
                [grads[i] for i in group],
                [trainable_variables[i] for i in group],
                share * multipliers.now(factor, self._iterations),
            )
            for i, total in zip(group, sums, strict=True):
                grads[i] = total
        super()._backend_apply_gradients(grads, trainable_variables)

    def _apply_weight_decay(self, variables):
        if not state.decays(self):
            return
        if keras.backend.backend() == "torch":
            # Keras's fused decay fails for a group of which no variable decays.
            variables = [v for v in variables if self._use_weight_decay(v)]
        for factor, group in self._groups(self.lr_multiplier, variables):
            members = [variables[i] for i in group]
            for decay_factor, part in self._groups(self.weight_decay_multiplier, members):
                self._at(factor, decay_factor)._apply_weight_decay([members[i] for i in part])

    def update_step(self, gradient, variable, learning_rate):
        factor = self.lr_multiplier(self._get_variable_index(variable))
        if factor != 0.0:
            before = self._before(factor, [variable])
            self._at(factor).update_step(gradient, variable, learning_rate)
            self._keep_at_0(factor, before)

    def _parallel_update_step(self, grads, variables, learning_rate):
        # One fused update for each group of equal multipliers. State that is not in a list over
        # variables (Nadam's momentum product) is common to all groups: each group starts from the
        # same value.
        common = state.common(self).values()
        common_before = [keras.ops.copy(v) for v in common]
        for number, (factor, group) in enumerate(self._groups(self.lr_multiplier, variables)):
            if number > 0:
                for variable, value in zip(common, common_before, strict=True):
                    variable.assign(value)
            members = [variables[i] for i in group]
            before = self._before(factor, members)
            self._at(factor)._parallel_update_step(
                [grads[i] for i in group], members, learning_rate
            )
            self._keep_at_0(factor, before)

    def _before(self, factor, variables):
        """Returns variables with their state, and copies of both; none without a schedule."""
        if not multipliers.is_schedule(factor):
            return []
        return [
            [
                (v, keras.ops.copy(keras.ops.convert_to_tensor(v)))
                for v in (variable, *held.values())
            ]
            for variable in variables
            for held in [state.of_variable(self, self._get_variable_index(variable))]
        ]

    def _keep_at_0(self, factor, before):
        if not before:
            return
        # Momentum moves a variable even at the rate 0. Its state may change, unless it becomes NaN
        # or infinite: Ftrl divides by the rate.
        still = keras.ops.equal(multipliers.now(factor, self._iterations), 0.0)
        for (variable, value), *held in before:
            self.assign(
                variable, keras.ops.where(still, value, keras.ops.convert_to_tensor(variable))
            )
            lost = still
            if held:
                finite = [keras.ops.all(keras.ops.isfinite(s)) for s, _ in held]
                lost = keras.ops.logical_and(
                    still, keras.ops.logical_not(keras.ops.all(keras.ops.stack(finite)))
                )
            for item, value in held:
                self.assign(item, keras.ops.where(lost, value, keras.ops.convert_to_tensor(item)))

    def _update_model_variables_moving_average(self, trainable_variables):
        super()._update_model_variables_moving_average(trainable_variables)
        # A variable that does not change is its own average, without rounding.
        for variable, average in zip(
            trainable_variables, self._model_variables_moving_average, strict=True
        ):
            if average is None:
                continue
            factor = self.lr_multiplier(self._get_variable_index(variable))
            if multipliers.is_schedule(factor):
                still = keras.ops.equal(multipliers.now(factor, self._iterations), 0.0)
                values = map(keras.ops.convert_to_tensor, (variable, average))
                average.assign(keras.ops.where(still, *values))
            elif factor == 0.0:
                average.assign(variable)
