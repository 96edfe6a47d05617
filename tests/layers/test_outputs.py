"""Outputs of the layers on every kind of input, against the float64 oracle."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_norm import GroupNormalization
from tests import oracle
from tests.gradients import numpy
from tests.kinds import makers

LAYERS = makers(rms={"center": True, "epsilon": 1e-5})
# The axes of a set in channels-last input of a rank; groups have their own rule.
SETS = {
    "batch": lambda rank: range(rank - 1),
    "layer": lambda rank: range(1, rank),
    "instance": lambda rank: range(1, rank - 1),
    "rms": lambda rank: [rank - 1],
}
# Features; sequences of features; 1-D, 2-D and 3-D images; sequences of 3-D images.
SHAPES = [(5, 6), (3, 7, 6), (3, 4, 5, 6), (2, 3, 4, 5, 6), (2, 2, 3, 3, 4, 6)]


def data(shape, mean=10.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + mean).astype("float32")


def channels_first(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def expected(kind, x, weights=None, **kwargs):
    """The layer's output for channels-last input, from the definition of its sets."""
    if kind == "group":
        halves = (expected("layer", half, weights) for half in np.split(x, 2, -1))
        return np.concatenate(list(halves), -1) * kwargs.get("gamma", 1) + kwargs.get("beta", 0)
    axes = SETS[kind](x.ndim)
    return oracle.normalize(x, axes, weights=weights, centered=kind != "rms", **kwargs)[0]


@pytest.mark.parametrize("first", [False, True], ids=["channels last", "channels first"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank {len(shape)}")
@pytest.mark.parametrize("kind", LAYERS)
def test_ranks_and_channel_axes(kind, shape, first):
    x = data(shape)
    gamma, beta = data(shape[-1:], 1, 1), data(shape[-1:], 0, 2)
    layer = LAYERS[kind](axis=1 if first else -1, gamma_initializer=gamma, beta_initializer=beta)
    y = numpy(layer(channels_first(x) if first else x, training=True))
    target = expected(kind, x, gamma=gamma, beta=beta)
    np.testing.assert_allclose(y, channels_first(target) if first else target, atol=5e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_arrays_without_keras_conversion(kind):
    # `stateless_call` passes arrays to `call` as they are.
    x = data((3, 7, 6))
    layer = LAYERS[kind]()
    layer.build(x.shape)
    state = [
        [v.value for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables)
    ]
    y, _ = layer.stateless_call(*state, x, training=True)
    np.testing.assert_allclose(numpy(y), expected(kind, x), atol=5e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_last_axis_as_long_as_the_channels(kind, training):
    # Keras's `ops.add` on TensorFlow takes beta for a bias of the last axis there.
    x = np.ascontiguousarray(channels_first(data((3, 4, 5, 4))))
    gamma, beta, mean = data((4,), 1, 1), data((4,), 0, 2), data((4,), 10, 3)
    arguments = {"moving_mean_initializer": mean} if kind == "batch" else {}
    layer = LAYERS[kind](axis=1, gamma_initializer=gamma, beta_initializer=beta, **arguments)
    y = np.moveaxis(numpy(layer(x, training=training)), 1, -1)
    last = np.moveaxis(x, 1, -1)
    if kind == "batch" and not training:
        target = (last - mean) / np.sqrt(1 + 1e-5) * gamma + beta
    else:
        target = expected(kind, last, gamma=gamma, beta=beta)
    np.testing.assert_allclose(y, target, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("shape", "first"), [((4, 5, 6), False), ((4, 5, 6), True), ((4, 5, 3, 2, 6), False)]
)
def test_masks(kind, shape, first):
    x = data(shape, 100)
    mask = np.arange(5) >= np.array([[0], [2], [4], [5]])  # the last sample is all padding
    x[~mask] = 1e4
    weights = mask.reshape(4, 5, *[1] * (len(shape) - 2)).astype("float32")
    beta = data((6,), 0, 3)
    layer = LAYERS[kind](axis=1 if first else -1, beta_initializer=beta)
    y = numpy(layer(channels_first(x) if first else x, training=True, mask=mask))
    y = np.moveaxis(y, 1, -1) if first else y
    target = expected(kind, x, weights=weights, beta=beta)
    held = np.broadcast_to(weights > 0, shape)
    np.testing.assert_allclose(y[held], target[held], atol=1e-5)
    if kind != "batch":
        np.testing.assert_array_equal(y[3], np.broadcast_to(beta, shape)[3])


@pytest.mark.parametrize("kind", LAYERS)
def test_masks_come_from_the_model(kind):
    x = data((3, 5, 4))
    x[1, 3:] = 0
    inputs = keras.Input((5, 4))
    outputs = LAYERS[kind](name="norm")(keras.layers.Masking()(inputs))
    y = numpy(keras.Model(inputs, outputs)(x, training=True))
    weights = (x != 0).any(-1, keepdims=True).astype("float32")
    np.testing.assert_allclose(y[0], expected(kind, x, weights=weights)[0], atol=5e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_mask_as_a_list(kind):
    x = data((2, 3, 6))
    mask = [[True, False, True], [True, True, False]]
    y, same = (LAYERS[kind]()(x, mask=m, training=True) for m in (mask, np.array(mask)))
    np.testing.assert_array_equal(numpy(y), numpy(same))


@pytest.mark.parametrize("kind", LAYERS)
def test_one_mask_for_all_samples(kind):
    x, mask = data((3, 5, 6)), np.array([[True, True, False, True, False]])
    y, same = (LAYERS[kind]()(x, mask=m, training=True) for m in (mask, np.tile(mask, (3, 1))))
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (y, same)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_wrong_mask(kind):
    with pytest.raises(ValueError, match=r"mask\.shape=\(3, 4\), inputs\.shape=\(3, 5, 6\)"):
        LAYERS[kind]()(data((3, 5, 6)), mask=np.ones((3, 4)), training=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize("kind", LAYERS)
def test_input_dtypes(kind, dtype):
    x = np.round(data((8, 3, 4), 50) * 4)
    if dtype == "bfloat16":
        x = ops.cast(x, "bfloat16")
        exact = numpy(ops.cast(x, "float32"))
    else:
        x = exact = x.astype(dtype)
    y = LAYERS[kind]()(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_allclose(numpy(y), expected(kind, exact), atol=5e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
@pytest.mark.parametrize("kind", LAYERS)
def test_policies(kind, policy):
    layer = LAYERS[kind](dtype=policy)
    x = data((8, 3, 4), 1000)
    y = layer(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    # Statistics see float32 input as it is; only the output is rounded, to 11 or 8 bits.
    error = 2**-8 if "bfloat" in policy else 2**-11
    np.testing.assert_allclose(
        numpy(ops.cast(y, "float32")), expected(kind, x), rtol=error, atol=1e-5
    )
    assert keras.backend.standardize_dtype(layer.gamma.dtype) == layer.variable_dtype


@pytest.mark.parametrize("kind", LAYERS)
def test_float64_policy(kind):
    if keras.backend.backend() == "jax":
        pytest.skip("JAX has float64 only where a user enables it for the whole process")
    x = data((8, 3, 4), 1e5).astype("float64") + np.random.default_rng(5).random((8, 3, 4)) * 1e-6
    y = LAYERS[kind](dtype="float64")(ops.convert_to_tensor(x, "float64"), training=True)
    np.testing.assert_allclose(numpy(y), expected(kind, x), rtol=0, atol=1e-9)
    x, gamma = data((8, 3, 4)), np.random.default_rng(6).random(4)
    layer = LAYERS[kind](dtype="float64", gamma_initializer=gamma)
    target = expected(kind, x, gamma=gamma)
    np.testing.assert_allclose(numpy(layer(x, training=True)), target, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_large_float16(kind):
    x = np.array([[60000, 30000], [60000, 20000], [59968, 10000]], "float16")
    layer = LAYERS[kind](dtype="float16")
    if kind == "group":
        layer = GroupNormalization(groups="all-channels", dtype="float16")
    y = numpy(layer(x, training=True))
    assert np.all(np.isfinite(y))
    for weight in layer.weights:
        assert np.all(np.isfinite(numpy(weight)))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("center", "scale", "names"),
    [(True, True, {"gamma", "beta"}), (False, True, {"gamma"}), (False, False, set())],
)
def test_center_and_scale(kind, center, scale, names):
    layer = LAYERS[kind](center=center, scale=scale)
    x = data((4, 6))
    np.testing.assert_allclose(numpy(layer(x, training=True)), expected(kind, x), atol=5e-6)
    assert {weight.name for weight in layer.trainable_weights} == names


@pytest.mark.parametrize("kind", LAYERS)
def test_unknown_batch_and_space(kind):
    inputs = keras.Input((None, None, 6))
    outputs = LAYERS[kind]()(inputs)
    assert outputs.shape == (None, None, None, 6)
    model = keras.Model(inputs, outputs)
    for shape in [(2, 3, 4, 6), (5, 7, 2, 6)]:
        x = data(shape)
        np.testing.assert_allclose(numpy(model(x, training=True)), expected(kind, x), atol=5e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_training_in_unknown_volumes(kind):
    inputs = keras.Input((None, None, None, 6))
    layer = LAYERS[kind]()
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd", "mse", jit_compile=False)
    x = data((2, 3, 4, 5, 6))
    beta_before = numpy(layer.beta)
    loss = model.train_on_batch(x, x)
    np.testing.assert_allclose(loss, np.mean((expected(kind, x) - x) ** 2), rtol=1e-5)
    gradient = 2 * np.mean(expected(kind, x) - x, (0, 1, 2, 3)) / 6
    np.testing.assert_allclose(numpy(layer.beta), beta_before - 0.01 * gradient, rtol=1e-5)


if keras.backend.backend() == "tensorflow":

    @pytest.mark.parametrize("kind", LAYERS)
    def test_known_sizes_stay_known_in_a_graph(kind):
        import tensorflow as tf

        layer = LAYERS[kind]()
        layer.build((None, None, 6))
        arguments = {"training": True} if kind == "batch" else {}
        call = tf.function(lambda x: layer(x, **arguments))
        graph = call.get_concrete_function(tf.TensorSpec((None, 4, 6)))
        assert graph.output_shapes.as_list() == [None, 4, 6]

    @pytest.mark.parametrize("kind", LAYERS)
    def test_a_view_of_unknown_sizes_has_no_more_axes_than_tensorflow_broadcasts(kind):
        import tensorflow as tf

        layer = LAYERS[kind]()
        layer.build((None, None, None, None, None, 6))
        signature = [tf.TensorSpec([None] * 5 + [6]), tf.TensorSpec([None] * 5, "bool")]
        call = tf.function(lambda x, mask: layer(x, mask=mask, training=True), signature)
        x = data((2, 3, 2, 3, 2, 6))
        mask = np.random.default_rng(0).random(x.shape[:-1]) < 0.7
        weights = mask[..., None].astype("float32")
        y = call(tf.constant(x), tf.constant(mask))
        np.testing.assert_allclose(y, expected(kind, x, weights=weights), atol=5e-6)
