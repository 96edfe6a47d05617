"""Features of TensorFlow: sparse gradients, and replicas that reduce gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer
from tests.optimizers import cases, test_training
from tests.replicas import on_tensorflow

ROWS, FACTORS = [4, 0, 4], (0, 0.1, 1, 3)


def sparse_gradient(step):
    values = cases.arrays(10 + step, [(3, 2)])[0]
    return tf.IndexedSlices(values, tf.constant(ROWS), dense_shape=(6, 2))


@pytest.mark.parametrize("name", ["Adagrad", "Adam", "SGD-momentum"])
def test_sparse_gradients(name):
    (start,) = cases.arrays(0, [(6, 2)])

    def train(optimizer, factors):
        tables = [keras.Variable(start) for _ in factors]
        for table, factor in zip(tables, factors, strict=True):
            keras_norm.set_multipliers(table, lr=factor)
        for step in range(3):
            optimizer.apply([sparse_gradient(step) for _ in tables], tables)
        return cases.values(tables)

    make = cases.OPTIMIZERS[name]
    results = train(MultiplierOptimizer(make(0.1, clipnorm=0.5)), FACTORS)
    cases.assert_same(results[:1], [start])
    for factor, result in zip(FACTORS[1:], results[1:], strict=True):
        cases.assert_close([result], train(make(factor * 0.1, clipnorm=0.5), [1]))


def test_sparse_gradients_stay_sparse_without_l2():
    dense, sparse = (keras.Variable(np.ones((6, 2), "float32")) for _ in range(2))
    keras_norm.set_multipliers(sparse, l2=0)
    seen = []

    class Seeing(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            seen.append(type(gradient))
            super().update_step(gradient, variable, learning_rate)

    optimizer = MultiplierOptimizer(Seeing(0.1), l2=0.5)
    optimizer.apply([sparse_gradient(0)] * 2, [dense, sparse])
    assert issubclass(seen[-1], tf.IndexedSlices)
    assert not issubclass(seen[-2], tf.IndexedSlices)
    gradient = tf.convert_to_tensor(sparse_gradient(0)).numpy()
    cases.assert_close(cases.values([dense, sparse]), [0.95 - 0.1 * gradient, 1 - 0.1 * gradient])


@pytest.fixture
def two_replicas():
    # As many as the logical CPUs of `tests/conftest.py`.
    strategy = on_tensorflow.strategy()
    assert strategy.num_replicas_in_sync == 2
    return strategy


@pytest.mark.parametrize("loss_scaling", [False, True])
def test_mirrored_strategy(two_replicas, loss_scaling):
    with two_replicas.scope():
        optimizer = MultiplierOptimizer(
            keras.optimizers.SGD(test_training.RATE, momentum=0.9, weight_decay=0.2), l2=0.3
        )
        if loss_scaling:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
        model = test_training.linear_model(optimizer)
    test_training.fit(model, 4)
    expected = test_training.regression(
        [test_training.RATE] * 4, momentum=0.9, weight_decay=0.2, l2=0.3
    )
    cases.assert_close(model.get_weights(), expected)


def test_mirrored_strategy_step_by_step(two_replicas):
    """With EMA, which Keras cannot do in a compiled step of replicas."""

    def train(rate, factors):
        with two_replicas.scope():
            inner = keras.optimizers.SGD(
                rate, weight_decay=0.1, use_ema=True, ema_momentum=0.3, ema_overwrite_frequency=2
            )
            optimizer = MultiplierOptimizer(inner) if factors else inner
            groups = [cases.variables(lr=factor) for factor in factors or [1]]
            variables = [variable for group in groups for variable in group]
            for step in cases.gradients(3):
                grads = [tf.constant(g) for _ in groups for g in step]
                two_replicas.run(lambda grads=grads: optimizer.apply(grads, variables))
            return [cases.values(group) for group in groups]

    at_0, at_1, at_3 = train(0.1, [0, 1, 3])
    cases.assert_same(at_0, cases.arrays(0))
    cases.assert_same(at_1, *train(0.1, None))
    cases.assert_close(at_3, *train(0.3, None))


@pytest.mark.parametrize("loss_scaling", [False, True])
def test_schedules_on_replicas(two_replicas, loss_scaling):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 2], [0.5, 0.0, 3.0])

    def fit(wrap, factors, callbacks=()):
        with two_replicas.scope():
            optimizer = wrap(
                keras.optimizers.SGD(test_training.RATE, momentum=0.9, weight_decay=0.2)
            )
            if loss_scaling:
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
            model = test_training.linear_model(optimizer, factors)
        weights = []

        def look(epoch, logs):
            weights.append(model.get_weights())

        look = keras.callbacks.LambdaCallback(on_epoch_end=look)
        test_training.fit(model, 4, [look, *callbacks])
        return weights

    def set_rate(epoch, rate):
        return [0.5, 0.5, 0.0, 3.0][epoch] * test_training.RATE

    scheduled = fit(MultiplierOptimizer, [schedule, schedule])
    cases.assert_same(scheduled[2], scheduled[1])
    by_hand = fit(lambda inner: inner, [1, 1], [keras.callbacks.LearningRateScheduler(set_rate)])
    cases.assert_close(
        [w for weights in scheduled[:2] for w in weights],
        [w for weights in by_hand[:2] for w in weights],
    )
    # By hand, momentum moves the variables also at the rate 0.
    assert np.any(by_hand[2][0] != by_hand[1][0])


def test_schedules_on_replicas_with_averages_and_accumulation(two_replicas):
    """Step by step: Keras does not compile either on replicas."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.5, 3.0, 0.25])
    factors = [0.5, 0.5, 3.0, 3.0, 0.25, 0.25]

    def train(settings, scheduled):
        with two_replicas.scope():
            inner = keras.optimizers.Adam(0.1, **settings)
            optimizer = MultiplierOptimizer(inner) if scheduled else inner
            made = cases.variables(lr=schedule if scheduled else None)
            for factor, step in zip(factors, cases.gradients(6), strict=True):
                if not scheduled:
                    inner.learning_rate = factor * 0.1
                grads = [tf.constant(g) for g in step]
                two_replicas.run(lambda grads=grads: optimizer.apply(grads, made))
            return cases.values(made)

    for settings in (
        {"use_ema": True, "ema_momentum": 0.3, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2},
    ):
        cases.assert_close(train(settings, True), train(settings, False))


def test_an_optimizer_goes_over_to_other_variables_on_replicas(two_replicas):
    with two_replicas.scope():
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(1, name="b")]
        )
        optimizer = MultiplierOptimizer(keras.optimizers.SGD(test_training.RATE, momentum=0.9))
    start = model.get_layer("a").get_weights()
    for trainable in (False, True):
        model.get_layer("a").trainable = trainable
        momenta = cases.values(optimizer.variables[2:])
        with two_replicas.scope():
            optimizer.build(model.trainable_variables)
            model.compile(optimizer, "mse")
        if momenta:
            cases.assert_same(cases.values(optimizer.variables[4:]), momenta)
        cases.assert_same(model.get_layer("a").get_weights(), start)
        test_training.fit(model, 2)
        slots = optimizer.variables[2:]
        assert len(slots) == len(model.trainable_variables)
        assert all("Mirrored" in type(slot.value).__name__ for slot in slots)
    assert np.any(model.get_layer("a").get_weights()[0] != start[0])
    assert cases.values([optimizer.iterations]) == [4]
