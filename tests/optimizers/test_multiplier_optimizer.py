import doctest

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer, multiplier_optimizer
from tests.optimizers import cases


def built(optimizer, **multipliers):
    variables = [keras.Variable(np.ones(2, "float32"), name=name) for name in ("a", "b", "c")]
    for variable in variables:
        keras_norm.set_multipliers(variable, **multipliers)
    optimizer.build(variables)
    return variables


def step(optimizer, variables):
    """The variables after one step of SGD from 1 with the gradient 1."""
    optimizer.apply([keras.ops.ones(2)] * len(variables), variables)
    return [float(value[0]) for value in cases.values(variables)]


def test_maps_win_over_what_variables_carry():
    optimizer = MultiplierOptimizer(
        keras.optimizers.SGD(0.5), l2=1.0, lr_multipliers={"a|b": 0.5}, l2_multipliers={"b": 0.0}
    )
    variables = built(optimizer, lr=0.25, l2=3.0)
    # a: 1 - 0.25 (1 + 3), b: 1 - 0.25 (1 + 0), c: 1 - 0.125 (1 + 3)
    assert step(optimizer, variables) == [0.0, 0.75, 0.5]
    # The variables are as they were: another optimizer does not inherit the maps.
    assert [v.lr_multiplier for v in variables] == [0.25] * 3


def test_a_change_takes_effect_at_the_next_trace():
    optimizer = MultiplierOptimizer(keras.optimizers.SGD(0.5))
    variables = built(optimizer)
    keras_norm.set_multipliers(variables[1], lr=0)
    assert step(optimizer, variables) == [0.5, 1.0, 0.5]


def test_patterns_are_checked_at_build():
    with pytest.raises(ValueError, match="'d' of `lr_multipliers` matches none of the 3"):
        built(MultiplierOptimizer(keras.optimizers.SGD(), lr_multipliers={"d": 1}))
    with pytest.raises(ValueError, match="Two patterns of `l2_multipliers`"):
        built(MultiplierOptimizer(keras.optimizers.SGD(), l2_multipliers={"a": 1, "a|b": 1}))


def test_settings_are_those_of_the_inner_optimizer():
    inner = keras.optimizers.Adam(0.5, weight_decay=0.1, use_ema=True)
    optimizer = MultiplierOptimizer(inner)
    assert float(optimizer.learning_rate) == 0.5
    assert optimizer.weight_decay == 0.1
    assert optimizer.use_ema
    optimizer.learning_rate = 0.25
    optimizer.clipnorm = 2.0
    assert float(inner.learning_rate) == 0.25
    assert inner.clipnorm == 2.0
    assert not hasattr(optimizer, "_model_variables_moving_average")
    built(optimizer)
    assert hasattr(optimizer, "_model_variables_moving_average")
    built_on = optimizer._trainable_variables
    assert int(optimizer.apply_gradients([(keras.ops.ones(2), v) for v in built_on])) == 1
    assert int(optimizer.iterations) == 1
    optimizer.set_weights([np.zeros(v.shape) for v in inner.variables])
    assert int(inner.iterations) == 0


def test_config_round_trip():
    optimizer = MultiplierOptimizer(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.1, 10)),
        l2=1e-4,
        lr_multipliers={"a": 2},
        l2_multipliers={"[bc]": 0},
        name="mine",
    )
    for _ in range(2):
        config = optimizer.get_config()
        again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert type(again) is MultiplierOptimizer
        assert again.get_config() == config
        assert again.lr_multipliers == {"a": 2.0}
        if not optimizer.built:
            keras_norm.set_multipliers(built(optimizer)[1], lr=5)
    assert again.get_config()["multipliers"] == [
        [1.0, 1.0, "a", None, 1.0, None],
        [5.0, 1.0, None, "[bc]", 1.0, None],
        [1.0, 1.0, None, "[bc]", 1.0, None],
    ]
    # Other variables, of other names, in their place: what is saved holds by position.
    others = [keras.Variable(np.ones(2, "float32"), name="other") for _ in range(3)]
    keras_norm.set_multipliers(others[2], lr=7)
    again.build(others)
    assert [v.lr_multiplier for v in others] == [1.0, 5.0, 7.0]
    assert again.get_config()["multipliers"][0] == [1.0, 1.0, "a", None, 1.0, None]


@pytest.mark.parametrize("patterns", [None, {"a": 0.1}])
def test_saved_multipliers_that_cannot_fit_are_left_out_with_a_warning(patterns):
    optimizer = MultiplierOptimizer(keras.optimizers.SGD(0.5), lr_multipliers=patterns)
    built(optimizer, lr=0.5)
    again = MultiplierOptimizer.from_config(optimizer.get_config())
    other = keras.Variable(1.0)
    with pytest.warns(UserWarning, match="belong to 3 variables, and it was built on 1"):
        again.build([other])
    assert not hasattr(other, "lr_multiplier")


def test_summary(capsys):
    optimizer = MultiplierOptimizer(
        keras.optimizers.SGD(0.5), l2=0.001, lr_multipliers={"a": 0.1}, l2_multipliers={"b": 0}
    )
    with pytest.raises(ValueError, match=r"optimizer.build\(model.trainable_variables\)"):
        optimizer.summary()
    built(optimizer)
    optimizer.summary()
    assert capsys.readouterr().out.splitlines() == [
        "variable  learning rate     L2  weight decay",
        "a                  0.05  0.001             0",
        "b                   0.5      0             0",
        "c                   0.5  0.001             0",
    ]


def test_a_summary_knows_what_has_no_weight_decay(capsys):
    inner = keras.optimizers.SGD(0.5, weight_decay=0.1)
    inner.exclude_from_weight_decay(var_names=["b"])
    optimizer = MultiplierOptimizer(inner, weight_decay_multipliers={"c": 2})
    built(optimizer)
    optimizer.summary()
    decays = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert decays == ["0.1", "0", "0.2"]


def test_muon_with_weight_decay_only_where_it_uses_adam():
    inner = keras.optimizers.Muon(0.5, weight_decay=None, adam_weight_decay=0.1)
    variables = [keras.Variable([2.0, 4.0], name=name) for name in "ab"]
    optimizer = MultiplierOptimizer(inner, weight_decay_multipliers={"a": 3})
    optimizer.apply([keras.ops.zeros(2)] * 2, variables)
    cases.assert_close(cases.values(variables), [[1.7, 3.4], [1.9, 3.8]])


def test_a_summary_shows_both_decays_of_muon(capsys):
    inner = keras.optimizers.Muon(0.5, weight_decay=0.2, adam_weight_decay=0.1)
    variables = [keras.Variable(keras.ops.ones(s), name=n) for n, s in [("a", (2, 2)), ("b", (2,))]]
    optimizer = MultiplierOptimizer(inner)
    optimizer.build(variables)
    optimizer.summary()
    decays = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert decays == ["0.2", "0.1"]


def test_the_example_runs():
    result = doctest.testmod(multiplier_optimizer)
    assert result.attempted
    assert not result.failed


def sgd():
    return keras.optimizers.SGD()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MultiplierOptimizer("sgd"), TypeError, "must be a Keras optimizer.*'sgd'"),
        (lambda: MultiplierOptimizer(keras.optimizers.SGD), TypeError, "must be a Keras opt"),
        (
            lambda: MultiplierOptimizer(keras.optimizers.LossScaleOptimizer(sgd())),
            TypeError,
            r"`LossScaleOptimizer\(MultiplierOptimizer\(optimizer\)\)`",
        ),
        (
            lambda: MultiplierOptimizer(MultiplierOptimizer(sgd())),
            TypeError,
            "cannot wrap another MultiplierOptimizer. Pass all multipliers to one",
        ),
        (
            lambda: MultiplierOptimizer(sgd(), clipnorm=1.0),
            ValueError,
            r"`clipnorm` belongs to the inner optimizer.*SGD\(clipnorm=\.\.\.\).*clipnorm=1.0",
        ),
        (lambda: MultiplierOptimizer(sgd(), learning_rate=1.0), ValueError, "belongs to the inn"),
        (lambda: MultiplierOptimizer(sgd(), use_ema=False), ValueError, "belongs to the inner"),
        (lambda: MultiplierOptimizer(sgd(), l1=1.0), TypeError, "takes no argument `l1`"),
        (lambda: MultiplierOptimizer(sgd(), l2=-1), ValueError, "`l2` must be a finite number"),
        (lambda: MultiplierOptimizer(sgd(), l2=float("nan")), ValueError, "Received: l2=nan"),
        (lambda: MultiplierOptimizer(sgd(), l2=float("inf")), ValueError, "Received: l2=inf"),
        (lambda: MultiplierOptimizer(sgd(), l2="1"), TypeError, "Received: l2='1'"),
        (lambda: MultiplierOptimizer(sgd(), l2=None), TypeError, "Received: l2=None"),
        (lambda: MultiplierOptimizer(sgd(), 0.0, {"a": -1}), ValueError, "lr_multipliers.*-1"),
        (lambda: MultiplierOptimizer(sgd(), 0.0, None, 3), TypeError, "l2_multipliers=3"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)
def test_multi_optimizer_goes_around():
    parts = {"a": MultiplierOptimizer(keras.optimizers.SGD(0.5), lr_multipliers={"a": 0.5})}
    around = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.5), parts)
    )
    with pytest.raises(TypeError, match="cannot wrap a MultiOptimizer"):
        MultiplierOptimizer(around)
    assert step(around, built(around)) == [0.75, 0.5, 0.5]


def test_an_optimizer_is_refused_by_another_model():
    optimizer = MultiplierOptimizer(keras.optimizers.SGD())
    built(optimizer)
    other = keras.Variable(np.ones(2, "float32"))
    for use in (
        lambda: optimizer.build([other]),
        lambda: step(optimizer, [other]),
        lambda: built(MultiplierOptimizer(optimizer.inner_optimizer)),
    ):
        with pytest.raises(ValueError, match=r"not built for the variable.*make a new optimizer"):
            use()


def test_using_it_before_it_is_built():
    optimizer = MultiplierOptimizer(keras.optimizers.SGD())
    with pytest.raises(ValueError, match=r"Call `optimizer.build\(trainable_variables\)` first"):
        optimizer.apply([keras.ops.ones(2)])
    with pytest.raises(ValueError, match=r"Call `optimizer.build\(trainable_variables\)` first"):
        optimizer.stateless_apply([], [keras.ops.ones(2)], [keras.ops.ones(2)])
    optimizer.apply([], [])
    assert not optimizer.built
