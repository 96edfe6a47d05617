"""An optimizer that is built again after a change of `trainable` keeps the remaining state."""

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer, state
from tests.optimizers import cases

X, Y = cases.arrays(1, [(16, 4), (16, 2)])
RATE = 0.02
EVERYTHING = {"use_ema": True, "ema_momentum": 0.6, "ema_overwrite_frequency": 3}


def named_variables():
    return {
        name: keras.Variable(value, name=name)
        for name, value in zip("abc", cases.arrays(0), strict=True)
    }


def run(optimizer, variables, names, numbers):
    """Applies the gradients of some steps to the variables of these names."""
    chosen = [variables[name] for name in names]
    optimizer.build(chosen)
    for number in numbers:
        grads = dict(zip("abc", cases.gradients(number + 1)[number], strict=True))
        optimizer.apply([keras.ops.convert_to_tensor(grads[name]) for name in names], chosen)


CASES = [(name, {}) for name in cases.OPTIMIZERS] + [
    (name, settings)
    for name in ("Nadam", "SGD-momentum")
    for settings in (EVERYTHING, {"gradient_accumulation_steps": 2})
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_what_stays_is_where_it_would_be_without_the_change(name, settings):
    def make():
        inner = cases.OPTIMIZERS[name](RATE, **settings)
        return MultiplierOptimizer(inner, l2=0.1, lr_multipliers={"b": 0.5})

    through, changed = named_variables(), named_variables()
    run(make(), through, "b", range(5))
    optimizer = make()
    run(optimizer, changed, "ab", range(2))
    run(optimizer, changed, "bc", [2])
    stayed = cases.values([changed["a"]])
    run(optimizer, changed, "cab", [3, 4])
    cases.assert_same(cases.values([changed["b"]]), cases.values([through["b"]]))
    assert np.any(cases.values([changed["a"]])[0] != stayed[0])
    assert all(np.all(np.isfinite(value)) for value in cases.values(changed.values()))
    # Nothing of the earlier sets is left, and files hold what they always hold.
    fresh = cases.OPTIMIZERS[name](RATE, **settings)
    fresh.build([changed[n] for n in "cab"])
    assert [v.shape for v in optimizer.variables] == [v.shape for v in fresh.variables]


def test_state_moves_bit_for_bit_and_new_variables_start_afresh():
    variables = named_variables()
    optimizer = MultiplierOptimizer(keras.optimizers.Adam(RATE, use_ema=True))
    run(optimizer, variables, "ab", range(3))
    inner = optimizer.inner_optimizer

    def state_of(name):
        index = inner._get_variable_index(variables[name])
        return {
            key: cases.values([held])[0] for key, held in state.of_variable(inner, index).items()
        }

    before = state_of("b")
    assert len(before) == 3
    optimizer.build([variables["c"], variables["b"]])
    after = state_of("b")
    assert before.keys() == after.keys()
    cases.assert_same(after.values(), before.values())
    assert int(optimizer.iterations) == 3
    new = state_of("c")
    # An average starts at the variable, as at the first step of an optimizer.
    cases.assert_same([new.pop("_model_variables_moving_average")], cases.values([variables["c"]]))
    assert not any(np.any(value) for value in new.values())
    # The same variables again are no change.
    held = optimizer.variables
    optimizer.build([variables["c"], variables["b"]])
    assert all(a is b for a, b in zip(held, optimizer.variables, strict=True))


def two_layers():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(3, "tanh", name="backbone"), keras.layers.Dense(2, name="head")]
    return keras.Sequential([keras.Input((4,)), *layers])


def fit(model, epochs=1):
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_fit_freeze_and_unfreeze(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = two_layers()
        backbone, _ = model.layers
        optimizer = MultiplierOptimizer(
            keras.optimizers.SGD(RATE, momentum=0.5), lr_multipliers={"(.*/)?head/.*": 0.5}
        )

        def compile_and_fit(trainable):
            backbone.trainable = trainable
            optimizer.build(model.trainable_variables)
            model.compile(optimizer, "mse", jit_compile=False)
            before = model.get_weights(), cases.values(optimizer.variables)
            fit(model)
            return before

        compile_and_fit(False)
        at_start, (*_, kernel, bias) = compile_and_fit(True)
        cases.assert_same(at_start[:2], two_layers().get_weights()[:2])
        assert np.any(model.get_weights()[0] != at_start[0])
        momenta = cases.values(optimizer.variables)[-4:]
        (weights, (*_, new_kernel, new_bias)) = compile_and_fit(False)
        cases.assert_same([new_kernel, new_bias], momenta[2:])
        cases.assert_same(model.get_weights()[:2], weights[:2])
        assert int(optimizer.iterations) == 6
        assert np.any(kernel)
        assert np.any(bias)
        # The pattern holds for what stayed.
        rates = keras_norm.optimizers.report.learning_rates(optimizer)
        assert rates == pytest.approx({"(.*/)?head/.*": 0.5 * RATE})
    finally:
        keras.config.set_dtype_policy("float32")


def test_what_was_frozen_by_a_schedule_and_by_trainable_agree():
    """Plain gradient descent has no state: both ways are the same."""
    frozen = two_layers()
    frozen.layers[0].trainable = False
    optimizer = MultiplierOptimizer(keras.optimizers.SGD(RATE))
    for trainable in (False, True):
        frozen.layers[0].trainable = trainable
        optimizer.build(frozen.trainable_variables)
        frozen.compile(optimizer, "mse", jit_compile=False)
        fit(frozen)
    scheduled = two_layers()
    later = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 1.0])
    keras_norm.set_multipliers(scheduled.layers[0], lr=later)
    scheduled.compile(MultiplierOptimizer(keras.optimizers.SGD(RATE)), "mse", jit_compile=False)
    fit(scheduled, 2)
    cases.assert_close(frozen.get_weights(), scheduled.get_weights())


def test_multipliers_of_what_stays_and_of_what_is_new_are_saved():
    a, b, c = (keras.Variable(1.0, name=name) for name in "abc")
    keras_norm.set_multipliers(b, l2=3)
    maps = {"lr_multipliers": {"a": 2.0, "b": 5.0}, "l2_multipliers": {"a|c": 0.0}}
    first = MultiplierOptimizer(keras.optimizers.SGD(RATE), **maps)
    first.build([a, b])
    optimizer = MultiplierOptimizer.from_config(first.get_config())
    # Names are others in a loaded model: what was resolved stays.
    x, y = keras.Variable(1.0, name="x"), keras.Variable(1.0, name="y")
    optimizer.build([x, y])
    optimizer.build([c, y])
    rows = optimizer.get_config()["multipliers"]
    assert rows == [[1.0, 1.0, None, "a|c", 1.0, None], [1.0, 3.0, "b", None, 1.0, None]]


def test_errors_say_what_to_do():
    model = two_layers()
    backbone, _ = model.layers
    backbone.trainable = False
    optimizer = MultiplierOptimizer(keras.optimizers.Adam(RATE))
    optimizer.build(model.trainable_variables)
    backbone.trainable = True
    model.compile(optimizer, "mse", jit_compile=False)
    with pytest.raises(ValueError, match=r"call `optimizer.build\(model.trainable_variables\)`"):
        fit(model)
    if keras.backend.backend() == "jax":
        with pytest.raises(ValueError, match=r"lost, such as '.*backbone/kernel'.* load"):
            optimizer.build(model.trainable_variables)
    else:
        optimizer.build(model.trainable_variables)
        fit(model)
    with pytest.raises(ValueError, match="For another model, make a new optimizer"):
        optimizer.build(two_layers().trainable_variables)


def test_state_that_belongs_to_no_variable_is_an_error():
    class Own(keras.optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.own = {v.name: self.add_variable((), name=f"own_{v.name}") for v in variables}

    variables = named_variables()
    optimizer = MultiplierOptimizer(Own(RATE, momentum=0.5))
    run(optimizer, variables, "ab", range(1))
    with pytest.raises(ValueError, match=r"state of Own cannot be kept.*'own_a', 'own_b' belongs"):
        optimizer.build([variables["a"], variables["c"]])
    run(optimizer, variables, "ab", range(1))
