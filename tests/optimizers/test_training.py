"""`compile` and `fit` under the wrapper, compared with linear regression in float64 NumPy."""

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer
from tests.optimizers import cases

RATE, FACTORS = 0.1, (0.5, 3.0)
X, NOISE, KERNEL = cases.arrays(1, [(16, 3), (16, 1), (3, 1)])
Y = (X @ np.ones((3, 1)) + 0.5 + 0.1 * NOISE).astype("float32")


def linear_model(optimizer, factors=FACTORS, **compile_args):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.layers[0].set_weights([KERNEL, np.zeros(1)])
    for weight, factor in zip(model.weights, factors, strict=True):
        keras_norm.set_multipliers(weight, lr=factor)
    model.compile(optimizer, "mse", **compile_args)
    return model


def fit(model, epochs, callbacks=()):
    """Full batches: an epoch is a step."""
    model.fit(
        X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    )


def regression(rates, factors=FACTORS, momentum=0.0, weight_decay=0.0, l2=0.0):
    """Gradient descent with one rate a step and one factor on it for kernel and bias."""
    weights, velocities = [np.float64(KERNEL), np.zeros(1)], [0.0, 0.0]
    for rate in rates:
        error = 2 * (X @ weights[0] + weights[1] - np.float64(Y)) / len(X)
        for i, (gradient, factor) in enumerate(
            zip((X.T @ error, error.sum(0)), factors, strict=True)
        ):
            step = factor * rate
            velocities[i] = momentum * velocities[i] - step * (gradient + l2 * weights[i])
            weights[i] = weights[i] * (1 - step * weight_decay) + velocities[i]
    return weights


# On PyTorch compiling takes most of a minute: `test_torch.py` compiles less.
@pytest.mark.parametrize(
    "jit_compile", [False] if keras.backend.backend() == "torch" else [True, False]
)
def test_fit(jit_compile):
    inner = keras.optimizers.SGD(RATE, momentum=0.9, weight_decay=0.2)
    model = linear_model(MultiplierOptimizer(inner, l2=0.3), jit_compile=jit_compile)
    fit(model, 5)
    expected = regression([RATE] * 5, momentum=0.9, weight_decay=0.2, l2=0.3)
    cases.assert_close(model.get_weights(), expected)


def test_a_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.1, 0.05, 0.2])
    model = linear_model(MultiplierOptimizer(keras.optimizers.SGD(schedule)))
    fit(model, 5)
    # Keras takes a boundary into the step before it.
    cases.assert_close(model.get_weights(), regression([0.1, 0.1, 0.05, 0.05, 0.2]))


def test_callbacks_that_set_the_learning_rate():
    model = linear_model(MultiplierOptimizer(keras.optimizers.SGD(RATE)))
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.5, patience=1, min_delta=1e9, cooldown=0
    )
    fit(model, 2, [scheduler])
    assert float(model.optimizer.learning_rate) == np.float32(RATE / 4)
    # With nothing good enough, the rate is halved after each epoch except the first.
    fit(model, 3, [plateau])
    assert float(model.optimizer.learning_rate) == np.float32(RATE / 16)
    rates = [RATE / 2, RATE / 4, RATE / 4, RATE / 4, RATE / 8]
    cases.assert_close(model.get_weights(), regression(rates))


def test_a_loss_scale_optimizer_around():
    around = keras.optimizers.LossScaleOptimizer(
        MultiplierOptimizer(keras.optimizers.SGD(RATE, loss_scale_factor=7.0), l2=0.3),
        initial_scale=2.0**127,  # the first steps overflow, and are skipped
        dynamic_growth_steps=2,
    )
    model = linear_model(around)
    fit(model, 6)
    steps = int(around.iterations)
    assert 1 < steps < 6
    cases.assert_close(model.get_weights(), regression([RATE] * steps, l2=0.3))


def test_mixed_float16_scales_the_loss_around_the_wrapper():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        optimizer = MultiplierOptimizer(keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.5))
        model = linear_model(optimizer, factors=(0, 1))
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert model.optimizer.inner_optimizer is optimizer
        fit(model, 2, [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])
    finally:
        keras.config.set_dtype_policy("float32")
    kernel, bias = model.get_weights()
    np.testing.assert_array_equal(kernel, KERNEL)
    assert np.all(np.isfinite(bias))
    assert bias != 0


def test_freezing_and_compiling_again():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(1, name="b")]
    )
    a, b = model.layers

    def compile_and_fit():
        optimizer = MultiplierOptimizer(
            keras.optimizers.AdamW(0.1), lr_multipliers={".*b/bias": 2.0}
        )
        model.compile(optimizer, "mse")
        before = model.get_weights()
        fit(model, 1)
        return [
            not np.array_equal(old, new)
            for old, new in zip(before, model.get_weights(), strict=True)
        ]

    assert compile_and_fit() == [True, True, True, True]
    a.trainable = False
    assert compile_and_fit() == [False, False, True, True]
    keras_norm.set_multipliers(b, lr=0)
    assert compile_and_fit() == [False, False, False, True]  # the map wins
    a.trainable = True
    keras_norm.set_multipliers(a.kernel, lr=0)
    assert compile_and_fit() == [False, True, False, True]


def test_compiling_again_with_the_same_optimizer():
    optimizer = MultiplierOptimizer(keras.optimizers.SGD(RATE))
    model = linear_model(optimizer)
    fit(model, 1)
    keras_norm.set_multipliers(model.layers[0].kernel, lr=0)
    keras_norm.set_multipliers(model.layers[0].bias, lr=1)
    model.compile(optimizer, "mse")
    kernel, _ = regression([RATE])
    fit(model, 2)
    after_kernel, after_bias = model.get_weights()
    cases.assert_close([after_kernel], [kernel])
    # The kernel stays, the bias goes on at the full rate.
    bias = regression([RATE])[1]
    for _ in range(2):
        bias = bias - RATE * 2 * np.mean(X @ kernel + bias - np.float64(Y), axis=0)
    cases.assert_close([after_bias], [bias])


def test_batch_normalization_and_embeddings_train():
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(7, 4),
            keras.layers.Conv1D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    keras_norm.layerwise_lr_decay(model, 0.1)
    keras_norm.set_multipliers(model.layers[2].gamma, lr=0)
    start = cases.values(model.trainable_variables)
    model.compile(MultiplierOptimizer(keras.optimizers.SGD(RATE, clipvalue=1e-3), l2=1e-3), "mse")
    tokens = np.random.default_rng(0).integers(0, 7, (16, 5))
    model.fit(tokens, Y, batch_size=16, verbose=0)
    moved = [
        np.abs(new - old).max()
        for old, new in zip(start, cases.values(model.trainable_variables), strict=True)
    ]
    assert moved[3] == 0.0  # gamma
    assert moved[-1] == pytest.approx(RATE * 1e-3, rel=1e-3)  # a gradient that was clipped
    assert 0 < moved[0] <= 1.01e-3 * RATE * 1e-3  # the embedding, three layers further in
