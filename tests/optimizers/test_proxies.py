"""A variable with multiplier m ends where the same optimizer moves it at m times the rate."""

import inspect

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer
from tests.optimizers import cases

RATE = 0.01
FACTORS = [0, 0.1, 1, 3]


def check(make, steps, prepare=lambda made: None):
    """Compares each of `FACTORS` under one wrapper with a separate optimizer."""
    groups = [cases.variables(lr=factor) for factor in FACTORS]
    for group in groups:
        prepare(group)
    cases.run(MultiplierOptimizer(make(RATE)), groups, steps)
    for factor, group in zip(FACTORS, groups, strict=True):
        if factor == 0:
            cases.assert_same(cases.values(group), cases.arrays(0))
        elif factor == 1:
            cases.assert_same(cases.values(group), cases.alone(make(RATE), steps, prepare))
        else:
            expected = cases.alone(make(factor * RATE), steps, prepare)
            cases.assert_close(cases.values(group), expected)


def test_every_optimizer_of_keras_is_a_case():
    no_case = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    shipped = {
        name
        for name, member in inspect.getmembers(keras.optimizers, inspect.isclass)
        if issubclass(member, keras.optimizers.Optimizer)
    }
    assert {name.split("-")[0] for name in cases.OPTIMIZERS} == shipped - no_case


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_equals_the_optimizer_at_a_multiple_of_its_rate(name):
    check(cases.OPTIMIZERS[name], cases.gradients())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SGD-momentum", {"weight_decay": 0.3}),
        ("Nadam", {"weight_decay": 0.3, "clipnorm": 0.5}),
        ("Muon", {"weight_decay": 0.3, "clipvalue": 0.2}),
        ("Nadam", {"clipvalue": 0.2, "gradient_accumulation_steps": 2}),
        ("Lion", {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 2}),
        ("Adam", {"use_ema": True, "weight_decay": 0.3, "ema_overwrite_frequency": 3}),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_equals_it_with_everything_around(name, settings):
    check(lambda rate: cases.OPTIMIZERS[name](rate, **settings), cases.gradients(4))


@pytest.mark.parametrize("name", ["SGD", "Adam", "Muon"])
def test_a_variable_at_multiplier_0_stays_whatever_its_gradient_is(name):
    (group,) = groups = [cases.variables(lr=0)]
    gradients = [[np.full_like(g, np.inf) for g in step] for step in cases.gradients(2)]
    cases.run(MultiplierOptimizer(cases.OPTIMIZERS[name](RATE)), groups, gradients)
    cases.assert_same(cases.values(group), cases.arrays(0))


def test_ema_that_is_finalized_leaves_a_variable_at_multiplier_0():
    (group,) = groups = [cases.variables(lr=0)]
    optimizer = MultiplierOptimizer(keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.7))
    cases.run(optimizer, groups, cases.gradients())
    optimizer.finalize_variable_values(group)
    cases.assert_same(cases.values(group), cases.arrays(0))


def test_equals_it_under_a_schedule_and_a_function():
    def schedule(rate):
        return keras.optimizers.schedules.ExponentialDecay(rate, 2, 0.5)

    check(lambda rate: keras.optimizers.AdamW(schedule(rate), 0.3), cases.gradients(4))
    check(lambda rate: keras.optimizers.AdamW(lambda: rate, 0.3), cases.gradients(4))


def test_variables_of_low_precision():
    def train(optimizer, factor):
        made = keras.Variable(cases.arrays(0)[0], dtype="bfloat16")
        keras_norm.set_multipliers(made, lr=factor)
        for gradient, *_ in cases.gradients(3):
            optimizer.apply([keras.ops.cast(gradient, "bfloat16")], [made])
        assert keras.backend.standardize_dtype(made.dtype) == "bfloat16"
        return cases.values([keras.ops.cast(made, "float32")])

    # The rate is multiplied before it is rounded to the variable's precision.
    cases.assert_same(
        train(MultiplierOptimizer(keras.optimizers.RMSprop(RATE)), 0.3),
        train(keras.optimizers.RMSprop(0.3 * RATE), 1),
    )


@pytest.mark.parametrize("by", ["var_list", "var_names"])
def test_weight_decay_excludes_what_the_inner_optimizer_excludes(by):
    # All of the group at multiplier 0.1, and a part of the others.
    groups = [cases.variables(lr=0.1, name="excluded"), *map(cases.variables, (1, 3))]
    excluded = [*groups[0], groups[1][1]] if by == "var_list" else groups[0]
    optimizer = MultiplierOptimizer(keras.optimizers.SGD(RATE, weight_decay=0.3))
    optimizer.exclude_from_weight_decay(
        **({"var_list": excluded} if by == "var_list" else {"var_names": ["excluded"]})
    )
    steps = cases.gradients(2)
    cases.run(optimizer, groups, steps)
    for factor, group in zip((0.1, 1, 3), groups, strict=True):
        for got, at in zip(group, range(3), strict=True):
            w = np.float64(cases.arrays(0)[at])
            for step in steps:
                decay = 0.0 if any(got is v for v in excluded) else 0.3
                w = w * (1 - decay * factor * RATE) - factor * RATE * step[at]
            cases.assert_close(cases.values([got]), [w])


def test_global_clipnorm_is_taken_over_all_variables():
    groups = [cases.variables(lr=factor) for factor in FACTORS]
    steps = cases.gradients(3)
    cases.run(MultiplierOptimizer(keras.optimizers.Adam(RATE, global_clipnorm=1.0)), groups, steps)
    clipped = []
    for step in steps:
        norm = np.sqrt(len(FACTORS) * sum(np.sum(np.float64(g) ** 2) for g in step))
        assert norm > 1
        clipped.append([(g / norm).astype("float32") for g in step])
    for factor, group in zip(FACTORS[1:], groups[1:], strict=True):
        expected = cases.alone(keras.optimizers.Adam(factor * RATE), clipped)
        cases.assert_close(cases.values(group), expected)


class Clip(keras.constraints.Constraint):
    def __call__(self, w):
        return keras.ops.clip(w, -0.5, 0.5)


def test_constraints_apply_at_every_multiplier():
    groups = [cases.variables(lr=factor) for factor in FACTORS]
    for group in groups:
        for variable in group:
            variable.constraint = Clip()
    steps = cases.gradients(3)
    cases.run(MultiplierOptimizer(keras.optimizers.SGD(RATE)), groups, steps)
    for factor, group in zip(FACTORS, groups, strict=True):
        expected = [np.float64(w) for w in cases.arrays(0)]
        for step in steps:
            expected = [
                np.clip(w - factor * RATE * g, -0.5, 0.5)
                for w, g in zip(expected, step, strict=True)
            ]
        cases.assert_close(cases.values(group), expected)


def test_the_inner_optimizer_stays_as_it_is():
    inner = keras.optimizers.Nadam(RATE)
    kind = type(inner)
    methods = dict(vars(kind))
    optimizer = MultiplierOptimizer(inner)
    cases.run(optimizer, [cases.variables(lr=3), cases.variables()], cases.gradients(2))
    assert type(inner) is kind
    assert dict(vars(kind)) == methods
    assert int(inner.iterations) == 2
    # No state is added: a checkpoint holds what one of the inner optimizer alone would hold.
    bare = keras.optimizers.Nadam(RATE)
    bare.build([*cases.variables(), *cases.variables()])
    assert [v.shape for v in optimizer.variables] == [v.shape for v in bare.variables]


def test_l2_is_added_before_clipping_and_beside_weight_decay():
    l2, decay, clip = 0.5, 0.3, 0.4
    factors = [(1, 1), (3, 1), (1, 0), (0.1, 2), (0, 1)]
    groups = [cases.variables(lr=lr, l2=l2_factor) for lr, l2_factor in factors]
    inner = keras.optimizers.SGD(RATE, weight_decay=decay, clipvalue=clip)
    steps = cases.gradients(3)
    cases.run(MultiplierOptimizer(inner, l2=l2), groups, steps)
    for (lr, l2_factor), group in zip(factors, groups, strict=True):
        expected = [np.float64(w) for w in cases.arrays(0)]
        for step in steps:
            expected = [
                w * (1 - decay * lr * RATE)
                - lr * RATE * np.clip(g + l2 * l2_factor * w, -clip, clip)
                for w, g in zip(expected, step, strict=True)
            ]
        cases.assert_close(cases.values(group), expected)


def test_l2_is_not_scaled_by_the_loss_scale_nor_by_accumulation():
    group = cases.variables()
    inner = keras.optimizers.SGD(RATE, loss_scale_factor=8.0, gradient_accumulation_steps=2)
    steps = cases.gradients(2)
    cases.run(MultiplierOptimizer(inner, l2=0.5), [group], steps)
    expected = [
        w - RATE * ((g1 + g2) / 2 / 8 + 0.5 * w)
        for w, g1, g2 in zip(np.array(cases.arrays(0), object), *steps, strict=True)
    ]
    cases.assert_close(cases.values(group), expected)


def test_l2_skips_variables_that_become_their_gradient():
    ordinary, overwritten = cases.variables()[:2]
    overwritten.overwrite_with_gradient = True
    gradient = cases.gradients(1)[0][:2]
    cases.run(
        MultiplierOptimizer(keras.optimizers.Adam(RATE), l2=0.5),
        [[ordinary, overwritten]],
        [gradient],
    )
    cases.assert_same(cases.values([overwritten]), gradient[1:])


def test_gradients_that_are_missing_change_nothing():
    first, second, third = cases.variables(lr=3)
    optimizer = MultiplierOptimizer(keras.optimizers.Adam(RATE), l2=0.5)
    gradient = keras.ops.convert_to_tensor(cases.gradients(1)[0][0])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([gradient, None, None], [first, second, third])
    cases.assert_same(cases.values([second, third]), cases.arrays(0)[1:])
