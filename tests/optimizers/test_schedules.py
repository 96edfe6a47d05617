"""Multipliers that change with the iterations, and factors on weight decay."""

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer
from tests.optimizers import cases

RATE = 0.01
Steps = keras.optimizers.schedules.PiecewiseConstantDecay


def by_hand(optimizer, factors, steps):
    """Where an optimizer whose rate is set by hand before each step puts its variables."""
    made = cases.variables()
    for factor, step in zip(factors, steps, strict=True):
        optimizer.learning_rate = factor * RATE
        cases.run(optimizer, [made], [step])
    return cases.values(made)


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_equals_an_optimizer_whose_rate_is_set_by_hand(name):
    # Keras takes a boundary into the step before it.
    groups = [cases.variables(lr=Steps([1], [0.5, 3.0])), cases.variables(lr=0.1)]
    steps = cases.gradients(4)
    make = cases.OPTIMIZERS[name]
    cases.run(MultiplierOptimizer(make(RATE)), groups, steps)
    cases.assert_close(cases.values(groups[0]), by_hand(make(RATE), [0.5, 0.5, 3, 3], steps))
    cases.assert_close(cases.values(groups[1]), by_hand(make(RATE), [0.1] * 4, steps))


@pytest.mark.parametrize("settings", [{}, {"use_ema": True, "ema_overwrite_frequency": 1}], ids=str)
@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_a_variable_stays_where_the_schedule_gives_0(name, settings):
    group = cases.variables(lr=Steps([1, 3], [1.0, 0.0, 1.0]))
    optimizer = MultiplierOptimizer(
        cases.OPTIMIZERS[name](
            RATE, **({"weight_decay": 0.1} if name != "Ftrl" else {}), **settings
        )
    )
    steps = cases.gradients(6)
    cases.run(optimizer, [group], steps[:2])
    before = cases.values(group)
    cases.run(optimizer, [group], steps[2:4])
    cases.assert_same(cases.values(group), before)
    cases.run(optimizer, [group], steps[4:])
    for new, old in zip(cases.values(group), before, strict=True):
        assert np.all(np.isfinite(new))
        assert np.any(new != old)
        assert np.abs(new - old).max() < 0.5


def test_ftrl_goes_on_after_0_as_if_the_steps_had_not_been():
    group = cases.variables(lr=Steps([1, 3], [1.0, 0.0, 1.0]))
    steps = cases.gradients(6)
    cases.run(MultiplierOptimizer(keras.optimizers.Ftrl(RATE)), [group], steps)
    expected = cases.alone(keras.optimizers.Ftrl(RATE), steps[:2] + steps[4:])
    cases.assert_close(cases.values(group), expected)


def test_l2_and_decay_by_schedule_worked_by_hand_for_sgd():
    variable = keras.Variable(np.float32([2.0]))
    keras_norm.set_multipliers(
        variable,
        lr=Steps([0], [1.0, 0.5]),
        l2=Steps([0], [2.0, 0.0]),
        weight_decay=Steps([0], [0.0, 3.0]),
    )
    optimizer = MultiplierOptimizer(keras.optimizers.SGD(0.1, weight_decay=0.2), l2=0.5)
    gradient = keras.ops.ones((1,))
    optimizer.apply([gradient], [variable])
    # 2 - 0.1 (1 + 2 * 0.5 * 2)
    np.testing.assert_allclose(cases.values([variable]), [[1.7]], rtol=1e-6)
    optimizer.apply([gradient], [variable])
    # 1.7 (1 - 0.05 * 3 * 0.2) - 0.05 * 1
    np.testing.assert_allclose(cases.values([variable]), [[1.7 * 0.97 - 0.05]], rtol=1e-6)


@pytest.mark.parametrize("l2", [0.5, Steps([0], [0.5, 2.0])], ids=["number", "schedule"])
def test_l2_keeps_the_precision_of_a_gradient(l2):
    variable = keras.Variable([2.0, 4.0], dtype="bfloat16")
    keras_norm.set_multipliers(variable, l2=l2)
    seen = []

    class Seeing(type(keras.optimizers.Ftrl())):
        def update_step(self, gradient, variable, learning_rate):
            seen.append(gradient)

    gradient = keras.ops.ones(2, dtype="bfloat16")
    MultiplierOptimizer(Seeing(), l2=0.5).apply([gradient], [variable])
    assert keras.backend.standardize_dtype(seen[-1].dtype) == "bfloat16"
    cases.assert_same(cases.values([keras.ops.cast(seen[-1], "float32")]), [[1.5, 2.0]])


def test_accumulation_and_schedules():
    """The count is that of batches, as of a schedule that is the rate of the inner optimizer."""
    group = cases.variables(lr=Steps([1], [2.0, 0.0]))
    steps = cases.gradients(4)
    inner = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)
    cases.run(MultiplierOptimizer(inner), [group], steps)
    expected = [
        w - 2 * RATE * (g1 + g2) / 2 for w, g1, g2 in zip(cases.arrays(0), *steps[:2], strict=True)
    ]
    cases.assert_close(cases.values(group), expected)


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_decay_factor_equals_the_optimizer_with_that_decay(name):
    def make(decay):
        more = {"adam_weight_decay": decay} if name == "Muon" else {}
        return cases.OPTIMIZERS[name](RATE, weight_decay=decay, **more)

    factors = (0.0, 0.5, 1.0, 2.0)
    groups = [cases.variables(lr=3) for _ in factors]
    for factor, group in zip(factors, groups, strict=True):
        for variable in group:
            keras_norm.set_multipliers(variable, weight_decay=factor)
    steps = cases.gradients(3)
    cases.run(MultiplierOptimizer(make(0.2)), groups, steps)
    for factor, group in zip(factors, groups, strict=True):
        cases.assert_close(cases.values(group), by_hand(make(0.2 * factor), [3] * 3, steps))


def test_fit_and_resume_in_the_middle_of_a_schedule(tmp_path):
    x, y = cases.arrays(1, [(32, 4), (32, 2)])

    def compiled():
        keras.utils.set_random_seed(0)
        layer = keras_norm.BatchNormalization(gamma_lr_multiplier=Steps([5], [0.0, 2.0]), name="n")
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), layer])
        model.add(keras.layers.Dense(2, name="b"))
        keras_norm.set_multipliers(model.get_layer("a"), lr=Steps([7], [0.0, 1.0]))
        optimizer = MultiplierOptimizer(
            keras.optimizers.AdamW(0.05),
            lr_multipliers={"(.*/)?b/kernel": Steps([3, 9], [1.0, 0.5, 2.0])},
            weight_decay_multipliers={"(.*/)?b/bias": 0.0},
        )
        model.compile(optimizer, "mse", jit_compile=False)
        return model

    def fit(model, epochs):
        return model.fit(
            *(x, y),
            batch_size=8,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[keras_norm.callbacks.LogLearningRates()],
        )

    through, model = compiled(), compiled()
    start = model.get_layer("a").get_weights()
    whole = fit(through, 4).history
    first = fit(model, 2).history
    cases.assert_same(model.get_layer("a").get_weights(), start)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    a = loaded.get_layer("a")
    assert a.kernel.lr_multiplier is a.bias.lr_multiplier
    second = fit(loaded, 2).history
    cases.assert_close(loaded.get_weights(), through.get_weights(), tolerance=1e-6)
    # After steps 4, 8, 12 and 16: the rates of the next step.
    for name, expected in {
        "a": [0.0, 0.05, 0.05, 0.05],
        "n/gamma": [0.0, 0.1, 0.1, 0.1],
        "n/beta": [0.05] * 4,
        "b": [0.05] * 4,
        "(.*/)?b/kernel": [0.025, 0.025, 0.1, 0.1],
    }.items():
        np.testing.assert_allclose(whole[f"learning_rate/{name}"], expected, rtol=1e-6)
    np.testing.assert_allclose(first["loss"] + second["loss"], whole["loss"], rtol=1e-5)


class Linear(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, slope):
        self.slope = slope

    def __call__(self, step):
        return 1.0 + self.slope * keras.ops.cast(step, "float32")

    def get_config(self):
        return {"slope": self.slope}


@pytest.mark.parametrize(
    ("slope", "what"), [(-0.5, "-4.0 at step 10"), (float("nan"), "nan at step")]
)
def test_bad_schedules_are_refused_when_given(slope, what):
    variable = keras.Variable(1.0)
    with pytest.raises(ValueError, match=f"`lr` must be a schedule.*Linear, which is {what}"):
        keras_norm.set_multipliers(variable, lr=Linear(slope))
    with pytest.raises(ValueError, match=r"`lr_multipliers\['a'\]` must be a schedule"):
        MultiplierOptimizer(keras.optimizers.SGD(), lr_multipliers={"a": Linear(slope)})
    with pytest.raises(ValueError, match="`gamma_lr_multiplier` must be a schedule"):
        keras_norm.LayerNormalization(gamma_lr_multiplier=Linear(slope))


def test_each_interval_of_a_schedule_is_checked():
    variable, piecewise = keras.Variable(1.0), keras.optimizers.schedules.PiecewiseConstantDecay
    with pytest.raises(ValueError, match=r"`lr` must be .*, which is -1\.0 at step 6"):
        keras_norm.set_multipliers(variable, lr=piecewise([5, 8], [1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match=r"`lr` must be .*, which is -2\.0 at step 2000001"):
        keras_norm.set_multipliers(variable, lr=piecewise([2_000_000], [1.0, -2.0]))


def test_decay_factors_need_weight_decay():
    with pytest.raises(ValueError, match=r"SGD\(weight_decay=.*weight_decay_multipliers=\{'a': 0"):
        MultiplierOptimizer(keras.optimizers.SGD(), weight_decay_multipliers={"a": 0})
    variable = keras.Variable(1.0, name="a")
    keras_norm.set_multipliers(variable, weight_decay=0)
    MultiplierOptimizer(keras.optimizers.SGD()).build([variable])
    keras_norm.set_multipliers(variable, weight_decay=2)
    with pytest.raises(ValueError, match=r"multiplier 2\.0 of 'a', with a SGD without"):
        MultiplierOptimizer(keras.optimizers.SGD()).build([variable])


def test_building_leaves_random_state_alone():
    keras.utils.set_random_seed(3)
    expected = cases.values([keras.random.normal((2,))])
    variable = keras.Variable(np.ones(2, "float32"))
    keras.utils.set_random_seed(3)
    MultiplierOptimizer(keras.optimizers.Adam()).build([variable])
    cases.assert_same(cases.values([keras.random.normal((2,))]), expected)
