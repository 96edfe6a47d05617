"""Features of JAX: pure functions, and arrays that are distributed over devices."""

import jax
import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer
from tests.optimizers import cases, test_training


def build(factors):
    groups = [cases.variables(lr=factor) for factor in factors]
    variables = [variable for group in groups for variable in group]
    optimizer = MultiplierOptimizer(
        keras.optimizers.Nadam(0.01, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=2),
        l2=0.1,
    )
    optimizer.build(variables)
    return groups, variables, optimizer


def test_stateless_apply_is_pure_and_equals_apply():
    steps = cases.gradients(3)
    groups, variables, optimizer = build((0, 0.1, 1))
    update = jax.jit(optimizer.stateless_apply)
    weights, state = [v.value for v in variables], [v.value for v in optimizer.variables]
    for step in steps:
        weights, state = update(state, [g for _ in groups for g in step], weights)
    cases.assert_same(cases.values(variables), 3 * cases.arrays(0))
    cases.assert_same(weights[:3], cases.arrays(0))
    cases.run(optimizer, groups, steps)
    cases.assert_close(weights, cases.values(variables))


def test_a_step_can_be_differentiated():
    """As in meta-learning: of w - rate (g + l2 w), at half the rate, by w and by g."""
    weight = keras.Variable(np.float32(2.0))
    keras_norm.set_multipliers(weight, lr=0.5)
    optimizer = MultiplierOptimizer(keras.optimizers.SGD(0.2), l2=3.0)
    optimizer.build([weight])
    state = [v.value for v in optimizer.variables]

    def updated(weight, gradient):
        return optimizer.stateless_apply(state, [gradient], [weight])[0][0]

    np.testing.assert_allclose(jax.grad(updated, (0, 1))(2.0, 1.0), (1 - 0.1 * 3, -0.1), rtol=1e-6)


def test_stateless_apply_refuses_the_values_of_another_model():
    _, variables, optimizer = build((1,))
    state, weights = [v.value for v in optimizer.variables], [v.value for v in variables]
    with pytest.raises(ValueError, match=r"built on other variables.*shape \(2,\).*make a new opt"):
        optimizer.stateless_apply(state, weights, [np.ones(2), *weights[1:]])
    with pytest.raises(ValueError, match="was built with 3 variables"):
        optimizer.stateless_apply(state, weights[:2], weights[:2])


def test_data_parallel_on_two_devices():
    devices = jax.devices()
    assert len(devices) == 2
    previous = keras.distribution.distribution()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    try:
        model = test_training.linear_model(
            MultiplierOptimizer(
                keras.optimizers.SGD(test_training.RATE, momentum=0.9, weight_decay=0.2), l2=0.3
            )
        )
        test_training.fit(model, 3)
        assert len(model.optimizer.variables[2].value.sharding.device_set) == 2
    finally:
        keras.distribution.set_distribution(previous)
    expected = test_training.regression(
        [test_training.RATE] * 3, momentum=0.9, weight_decay=0.2, l2=0.3
    )
    cases.assert_close(model.get_weights(), expected)


def test_model_parallel_on_two_devices():
    mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), devices=jax.devices())
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    weights = cases.arrays(3, [(3, 4), (4,)])
    y = test_training.Y * np.ones((1, 4), "float32")

    def train():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
        model.set_weights(weights)
        keras_norm.set_multipliers(model.layers[0].kernel, lr=0.1)
        model.compile(MultiplierOptimizer(keras.optimizers.Adam(0.1), l2=0.3), "mse")
        model.fit(test_training.X, y, epochs=3, shuffle=False, verbose=0)
        return model

    previous = keras.distribution.distribution()
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )
    try:
        spread = train()
        momentum = spread.optimizer.variables[2]
        assert momentum.shape == (3, 4)
        assert momentum.value.sharding.spec == jax.sharding.PartitionSpec(None, "model")
    finally:
        keras.distribution.set_distribution(previous)
    cases.assert_close(spread.get_weights(), train().get_weights())
