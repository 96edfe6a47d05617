"""Schedules under loss scaling, accumulation, averages: as settings that are changed by hand."""

import keras
import numpy as np
import pytest

from keras_norm.optimizers import MultiplierOptimizer
from tests.optimizers import cases, test_training

RATE = 0.01
# The factors of eight steps. Keras takes a boundary into the step before it.
FACTORS = [0.5, 0.5, 3.0, 3.0, 3.0, 0.25, 0.25, 0.25]
SCHEDULE = keras.optimizers.schedules.PiecewiseConstantDecay([1, 4], [0.5, 3.0, 0.25])


def by_hand(make, steps):
    """Where a plain optimizer whose rate is set before each step puts its variables."""
    made, optimizer = cases.variables(), make()
    for factor, step in zip(FACTORS, steps, strict=False):
        optimizer.learning_rate = factor * RATE
        cases.run(optimizer, [made], [step])
    return cases.values(made)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Adam", {"use_ema": True, "ema_momentum": 0.6, "ema_overwrite_frequency": 2}),
        ("SGD-momentum", {"use_ema": True, "weight_decay": 0.3, "ema_overwrite_frequency": 3}),
        ("SGD-momentum", {"gradient_accumulation_steps": 2, "weight_decay": 0.3}),
        ("Nadam", {"gradient_accumulation_steps": 3, "clipnorm": 0.5}),
        ("Muon", {"gradient_accumulation_steps": 2}),
        ("AdamW", {"loss_scale_factor": 8.0}),
    ],
    ids=str,
)
def test_settings_of_the_inner_optimizer(name, settings):
    def make():
        return cases.OPTIMIZERS[name](RATE, **settings)

    steps = cases.gradients(8)
    groups = [cases.variables(lr=SCHEDULE), cases.variables(lr=0)]
    cases.run(MultiplierOptimizer(make()), groups, steps)
    cases.assert_close(cases.values(groups[0]), by_hand(make, steps))
    cases.assert_same(cases.values(groups[1]), cases.arrays(0))


def test_averages_that_are_finalized():
    def make():
        return keras.optimizers.Adam(RATE, use_ema=True, ema_momentum=0.6)

    def average(optimizer, made):
        optimizer.finalize_variable_values(made)
        return cases.values(made)

    steps, group, plain, optimizer = cases.gradients(4), cases.variables(lr=SCHEDULE), [], make()
    wrapper = MultiplierOptimizer(make())
    cases.run(wrapper, [group], steps)
    plain = cases.variables()
    for factor, step in zip(FACTORS, steps, strict=False):
        optimizer.learning_rate = factor * RATE
        cases.run(optimizer, [plain], [step])
    cases.assert_close(average(wrapper, group), average(optimizer, plain))


class SetRate(keras.callbacks.Callback):
    """Sets the rate of a plain optimizer by hand: an epoch is a step."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = FACTORS[epoch] * test_training.RATE


def linear_models(make):
    """The same model twice: with a schedule on all of it, and with a rate that is set by hand."""
    scheduled = test_training.linear_model(make(MultiplierOptimizer), [SCHEDULE, SCHEDULE])
    test_training.fit(scheduled, 6)
    plain = test_training.linear_model(make(lambda inner: inner))
    test_training.fit(plain, 6, [SetRate()])
    return scheduled, plain


def test_mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        # At Keras's scale, 2**15, the first steps overflow, and are no steps.
        models = linear_models(
            lambda wrap: keras.optimizers.LossScaleOptimizer(
                wrap(keras.optimizers.SGD(test_training.RATE, 0.9)), initial_scale=8.0
            )
        )
    finally:
        keras.config.set_dtype_policy("float32")
    # Weights are in float32; their gradients, in float16, turn roundings into steps of 5e-4.
    cases.assert_close(*(model.get_weights() for model in models), tolerance=2e-3)
    assert np.any(models[0].get_weights()[0] != test_training.KERNEL)


def test_mixed_float16_by_compile_is_saved_and_resumed(tmp_path):
    """`compile` wraps the optimizer by itself; training goes on after a load as without it."""
    factors = [SCHEDULE, 0.0]

    def compiled():
        optimizer = MultiplierOptimizer(keras.optimizers.SGD(test_training.RATE, momentum=0.9))
        return test_training.linear_model(optimizer, factors, jit_compile=False)

    keras.config.set_dtype_policy("mixed_float16")
    try:
        through, model = compiled(), compiled()
        test_training.fit(through, 6)
        test_training.fit(model, 3)
        model.save(tmp_path / "model.keras")
        # Under another policy, Keras loads the model without the loss scale.
        loaded = keras.models.load_model(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    assert type(loaded.optimizer) is keras.optimizers.LossScaleOptimizer
    assert type(loaded.optimizer.inner_optimizer) is MultiplierOptimizer
    test_training.fit(loaded, 3)
    # The same steps in the same order, with the same scale of the loss.
    cases.assert_same(loaded.get_weights(), through.get_weights())
    assert int(loaded.optimizer.iterations) == int(through.optimizer.iterations)
    # At the first scale, 2**15, some steps may overflow: they are skipped, and do not count.
    steps = int(through.optimizer.iterations)
    assert steps > 3
    rates = [factor * test_training.RATE for factor in FACTORS[:steps]]
    expected = test_training.regression(rates, factors=(1, 0), momentum=0.9)
    # Gradients are in float16.
    cases.assert_close(loaded.get_weights()[:1], expected[:1], tolerance=2e-3)
    cases.assert_same(loaded.get_weights()[1:], [np.zeros(1)])


def test_loss_scaling_and_steps_that_overflow():
    """A step that is skipped does not count: the schedule waits."""

    def make(wrap):
        return keras.optimizers.LossScaleOptimizer(
            wrap(keras.optimizers.SGD(test_training.RATE)), initial_scale=2.0**127
        )

    model = test_training.linear_model(make(MultiplierOptimizer), [SCHEDULE, SCHEDULE])
    test_training.fit(model, 8)
    steps = int(model.optimizer.iterations)
    assert 2 < steps < 8
    rates = [factor * test_training.RATE for factor in FACTORS[:steps]]
    expected = test_training.regression(rates, factors=(1, 1))
    cases.assert_close(model.get_weights(), expected)
