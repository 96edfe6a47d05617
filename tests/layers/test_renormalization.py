"""Batch renormalization, against Ioffe's formulas in float64 and Keras's layer."""

import keras
import numpy as np
import pytest

from keras_norm import BatchNormalization, update_population_statistics
from tests import oracle
from tests.gradients import numpy, vjp

EPSILON = 1e-3
CLIPPING = {"rmin": 0.6, "rmax": 1.5, "dmax": 0.3}


def data(shape, mean=3.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype("float32")


def make(**arguments):
    arguments = {"momentum": 0.9, "epsilon": EPSILON, "renorm_momentum": 0.8, **arguments}
    return BatchNormalization(renorm=True, **arguments)


def corrections(mean, variance, clipping, renorm_mean, renorm_stddev):
    stddev = np.sqrt(variance + EPSILON)
    r, d = stddev / renorm_stddev, (mean - renorm_mean) / renorm_stddev
    r = np.clip(r, clipping.get("rmin", 0), clipping.get("rmax", np.inf))
    dmax = clipping.get("dmax", np.inf)
    return r, np.clip(d, -dmax, dmax), stddev


@pytest.mark.parametrize("clipping", [None, CLIPPING, {"rmax": 1.2}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_formulas(clipping, masked):
    gamma, beta = data((4,), 1, 1), data((4,), 0, 2)
    layer = make(
        renorm_clipping=clipping,
        variance_momentum=0.7,
        gamma_initializer=gamma,
        beta_initializer=beta,
        moving_variance_initializer=[1.0, 2.0, 3.0, 4.0],
    )
    mean, moving_stddev = np.zeros(4), np.sqrt([1.0, 2, 3, 4])
    renorm_mean, renorm_stddev = mean, moving_stddev
    weights = np.ones((6, 3, 1))
    weights[::2, 2] = 0
    for step in range(4):
        x = data((6, 3, 4), 2 + step, step)
        mask = weights[..., 0] > 0 if masked else None
        y = numpy(layer(x, training=True, mask=mask))
        standard, batch_mean, batch_variance = oracle.normalize(
            x, (0, 1), EPSILON, weights=weights if masked else None
        )
        batch_mean, batch_variance = batch_mean.ravel(), batch_variance.ravel()
        r, d, stddev = corrections(
            batch_mean, batch_variance, clipping or {}, renorm_mean, renorm_stddev
        )
        expected = (standard * r + d) * gamma + beta
        np.testing.assert_allclose(y, expected, atol=1e-5)
        renorm_mean = 0.8 * renorm_mean + 0.2 * batch_mean
        renorm_stddev = 0.8 * renorm_stddev + 0.2 * stddev
        mean = 0.9 * mean + 0.1 * batch_mean
        moving_stddev = 0.7 * moving_stddev + 0.3 * stddev
    for variable, value in (
        (layer.renorm_mean, renorm_mean),
        (layer.renorm_stddev, renorm_stddev),
        (layer.moving_mean, mean),
        (layer.moving_stddev, moving_stddev),
        (layer.moving_variance, moving_stddev**2 - EPSILON),
    ):
        np.testing.assert_allclose(numpy(variable), value, rtol=2e-6, err_msg=variable.name)


@pytest.mark.parametrize("mean", [3.0, 1e5])
def test_gradients_and_large_means(mean):
    """r and d are constants: gradients are those of batch normalization with gamma * r."""
    x, upstream, gamma = data((64, 4), mean), data((64, 4), 0, 1), data((4,), 1, 2)
    layer = make(gamma_initializer=gamma)
    layer.build(x.shape)
    layer.renorm_mean.assign(x.mean(0) + 0.5)
    renorm_mean = numpy(layer.renorm_mean).astype("float64")
    layer.renorm_stddev.assign([0.5, 1.0, 1.5, 2.0])
    y, to_x = vjp(lambda x: layer(x, training=True), [x], upstream)
    standard, batch_mean, variance = oracle.normalize(x, [0], EPSILON)
    r, d, _ = corrections(batch_mean, variance, {}, renorm_mean, np.array([0.5, 1.0, 1.5, 2.0]))
    assert oracle.error(y, (standard * r + d) * gamma) < 2e-6
    expected, _, _, scale = oracle.gradients(x, [0], upstream, EPSILON, gamma * r)
    assert oracle.error(to_x, expected, scale) < 2e-6


@pytest.mark.skipif(
    not hasattr(keras.layers.BatchNormalization(), "renorm"), reason="Keras has it from 3.14"
)
@pytest.mark.parametrize("clipping", [None, CLIPPING], ids=str)
def test_equals_keras_and_takes_its_weights(clipping):
    theirs = keras.layers.BatchNormalization(
        renorm=True, renorm_clipping=clipping, momentum=0.9, renorm_momentum=0.8
    )
    if not hasattr(theirs, "renorm"):
        pytest.skip("this Keras has no renorm")
    ours = BatchNormalization.from_config(theirs.get_config())
    theirs.build((None, 4))
    ours.build((None, 4))
    for step in range(3):
        x = data((6, 4), 1, step)
        y, expected = ours(x, training=True), theirs(x, training=True)
        np.testing.assert_allclose(numpy(y), numpy(expected), atol=1e-5)
    assert [v.name for v in ours.weights] == [v.name for v in theirs.weights]
    for variable, expected in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(numpy(variable), numpy(expected), atol=1e-5)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(numpy(ours(x)), numpy(theirs(x)), atol=1e-5)


@pytest.mark.parametrize("case", ["empty", "all padding", "NaN"])
def test_useless_batch_leaves_all_statistics(case):
    layer = make(beta_initializer=[1.0, 2.0, 3.0, 4.0])
    layer.build((None, 3, 4))
    layer.renorm_mean.assign([1.0, 2.0, 3.0, 4.0])
    before = layer.get_weights()
    x = data((0 if case == "empty" else 2, 3, 4))
    mask = np.zeros((2, 3), bool) if case == "all padding" else None
    if case == "NaN":
        x[0, 0, 1] = np.nan
    y = numpy(layer(x, training=True, mask=mask))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    if case == "all padding":
        np.testing.assert_array_equal(y, np.broadcast_to([1.0, 2.0, 3.0, 4.0], y.shape))


def test_population_statistics_set_what_inference_uses():
    x = data((40, 4), 5)
    layer = make()
    model = keras.Sequential([keras.Input((4,)), layer])
    layer(x[:8], training=True)
    own = [numpy(v) for v in (layer.renorm_mean, layer.renorm_stddev)]
    update_population_statistics(model, x, batch_size=8, verbose=0)
    expected = oracle.normalize(x, [0], EPSILON)[0]
    np.testing.assert_allclose(numpy(model(x)), expected, atol=1e-5)
    for old, variable in zip(own, (layer.renorm_mean, layer.renorm_stddev), strict=True):
        np.testing.assert_array_equal(old, numpy(variable))
    # Training goes on from there: the next batch moves the new statistics.
    batch = data((8, 4), 7, 1)
    layer(batch, training=True)
    stddev = 0.9 * np.sqrt(x.var(0) + EPSILON) + 0.1 * np.sqrt(batch.var(0) + EPSILON)
    np.testing.assert_allclose(numpy(layer.moving_variance), stddev**2 - EPSILON, rtol=1e-5)


def test_population_statistics_are_found_without_corrections():
    x = data((40, 4), 5)
    first, second = make(), make()
    first(data((8, 4), 100), training=True)  # the statistics that corrections use
    model = keras.Sequential([keras.Input((4,)), first, second])
    update_population_statistics(model, x, batch_size=8, verbose=0)
    seen = [oracle.normalize(batch, [0], EPSILON)[0] for batch in np.split(x, 5)]
    np.testing.assert_allclose(numpy(second.moving_mean), np.mean(seen, (0, 1)), atol=1e-5)


def test_file_and_fit(tmp_path):
    x = data((32, 4))
    model = keras.Sequential(
        [keras.Input((4,)), make(renorm_clipping=CLIPPING, name="norm"), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    model.fit(x, x[:, :1], batch_size=8, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("norm").get_config() == model.get_layer("norm").get_config()
    assert loaded.get_layer("norm").renorm_clipping == CLIPPING
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"renorm": "yes"}, TypeError),
        ({"renorm_momentum": 1.5}, ValueError),
        ({"renorm_momentum": None}, TypeError),
        ({"renorm_clipping": 3}, TypeError),
        ({"renorm_clipping": {"max": 3.0}}, ValueError),
        ({"renorm_clipping": {"rmax": 1.0, "rmin": 2.0}}, ValueError),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, error):
    (name,) = arguments
    with pytest.raises(error, match=rf"{name}.*Received: {name}="):
        BatchNormalization(**arguments)


def test_a_moving_deviation_of_0_counts_as_that_of_epsilon():
    layer = make(moving_variance_initializer="zeros")
    x = data((8, 4), 0)
    expected = (x - 0.0) / np.sqrt(EPSILON)  # the moving mean is 0
    np.testing.assert_allclose(numpy(layer(x, training=True)), expected, rtol=1e-4, atol=1e-4)


def test_bounds_that_are_not_there():
    layer = make(renorm_clipping={"rmax": float("inf"), "dmax": None, "rmin": 0.5})
    assert layer.renorm_clipping == {"rmin": 0.5}


@pytest.mark.parametrize("has_parameters", [False, True])
def test_a_batch_of_one_with_channels_first(has_parameters):
    layer = BatchNormalization(
        axis=1, renorm=True, center=has_parameters, scale=has_parameters, epsilon=1e-5
    )
    x = np.random.default_rng(0).standard_normal((1, 3, 5)).astype("float32")
    # r and d undo the batch's moments: the statistics of a new layer are 0 and 1.
    np.testing.assert_allclose(numpy(layer(x, training=True)), x, atol=1e-4)
