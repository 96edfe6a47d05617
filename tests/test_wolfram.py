"""Wolfram's batch normalization against the formulas of its document, worked by hand."""

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.wolfram import BatchNormalizationLayer, NetExtract

# A few roundings of float32 on numbers of size 1.
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}
ARRAYS = {
    "MovingMean": [1.0, 2.0],
    "MovingVariance": [3.0, 8.0],
}


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def expected(x, axis):
    """Beta 1 and -1, Gamma 2 and 3, Epsilon 1: roots 2 and 3."""
    x = np.moveaxis(np.asarray(x, float), axis, -1)
    return np.moveaxis((x - [1, 2]) / [2, 3] * [2, 3] + [1, -1], -1, axis)


@pytest.mark.parametrize("names", [("Beta", "Gamma"), ("Biases", "Scaling")])
def test_one_input_and_lists_of_inputs(names):
    options = {names[0]: [1, -1], names[1]: [2, 3], "Epsilon": 1, "Input": [2, 3, 2], **ARRAYS}
    layer = BatchNormalizationLayer(*[item for pair in options.items() for item in pair])
    x = np.arange(24.0).reshape(2, 2, 3, 2)
    for one in (x[0], x[0].tolist(), keras.ops.convert_to_tensor(x[0])):
        found = layer(one)
        assert keras.ops.is_tensor(found)
        found = to_numpy(found)
        np.testing.assert_allclose(found, expected(x[0], 0), **TOLERANCE)
    for several in ([x[0], x[1]], (x[0], x[1]), x.tolist()):
        found = layer(several)
        assert isinstance(found, list)
        np.testing.assert_allclose([to_numpy(y) for y in found], expected(x, 1), **TOLERANCE)
    np.testing.assert_allclose(to_numpy(layer(x)), expected(x, 1), **TOLERANCE)


def test_interleaving():
    layer = BatchNormalizationLayer(
        Beta=[1, -1], Gamma=[2, 3], Epsilon=1, Input=[3, 2], Interleaving=True, **ARRAYS
    )
    x = np.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(to_numpy(layer(x)), expected(x, 1), **TOLERANCE)
    assert NetExtract(layer, "Interleaving")


def test_training_moves_the_statistics():
    layer = BatchNormalizationLayer(Input=2, Momentum=0.75, **ARRAYS)
    layer(np.array([[1.0, 10.0], [3.0, 30.0]]), training=True)  # means 2, 20; variances 1, 100
    np.testing.assert_allclose(NetExtract(layer, "MovingMean"), [1.25, 6.5], **TOLERANCE)
    np.testing.assert_allclose(NetExtract(layer, "MovingVariance"), [2.5, 31.0], **TOLERANCE)


def test_defaults():
    layer = BatchNormalizationLayer()
    assert {name: NetExtract(layer, name) for name in ("Epsilon", "Momentum", "Interleaving")} == {
        "Epsilon": 0.001,
        "Momentum": 0.9,
        "Interleaving": False,
    }
    arrays = ("Beta", "Biases", "Gamma", "Scaling", "MovingMean", "MovingVariance", "Input")
    assert {NetExtract(layer, name) for name in arrays} == {"Automatic"}
    assert not layer.built
    layer = BatchNormalizationLayer("Input", [3, 4], "Beta", "Automatic")
    assert layer.built
    assert NetExtract(layer, "Input") == [3, 4]
    assert NetExtract(layer, "Biases").tolist() == [0, 0, 0]
    assert NetExtract(layer, "Scaling").tolist() == [1, 1, 1]


def test_given_arrays_are_there_before_the_layer_is_built():
    layer = BatchNormalizationLayer(Scaling=[[[2]], [[3]]])
    assert NetExtract(layer, "Gamma").tolist() == [2, 3]
    assert NetExtract(keras_norm.BatchNormalization(epsilon=0.5), "Epsilon") == 0.5


def test_in_a_model_and_a_file(tmp_path):
    model = keras.Sequential(
        [keras.Input((2, 4)), BatchNormalizationLayer(Beta=[1, -1], Gamma=[2, 3], **ARRAYS)]
    )
    x = np.random.default_rng(0).normal(size=(8, 2, 4)).astype("float32")
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(model(x)), to_numpy(again(x)))
    np.testing.assert_array_equal(
        NetExtract(model.layers[0], "MovingMean"), NetExtract(again.layers[0], "MovingMean")
    )
    assert NetExtract(again.layers[0], "Input") == [2, 4]


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        (("Epsilon",), {}, "odd number of arguments"),
        ((), {"Epsilom": 1}, "no property 'Epsilom'. Did you mean 'Epsilon'"),
        ((), {"Beta": [1], "Biases": [1]}, "takes 'Biases' or 'Beta', its older name"),
        ((), {"Epsilon": 0}, "`Epsilon` must be a finite number > 0"),
        ((), {"Momentum": 2}, "`Momentum` must be"),
        ((), {"Gamma": None}, "`Gamma` must contain one number for each channel"),
        ((), {"MovingVariance": [-1]}, "`MovingVariance` must contain finite numbers >= 0"),
        ((), {"MovingMean": [np.inf]}, "`MovingMean` must contain finite numbers"),
        ((), {"Interleaving": 1}, "`Interleaving` must be True or False"),
        ((), {"Input": 0}, "`Input` must be a positive integer"),
        ((), {"Input": [3, 2.5]}, "`Input` must be a positive integer"),
        ((), {"Input": [3, True]}, "`Input` must be a positive integer"),
        ((), {"Output": 0}, "`Output` must be a positive integer"),
        ((), {"Input": 2, "Output": 3}, r"Received: Input=\[2\], Output=\[3\]"),
        ((), {"Epsilon": 10**400}, "`Epsilon` must be a finite number > 0"),
        ((), {"Epsilon": 1e-50}, "`Epsilon` must be at least"),
        ((), {"Gamma": np.ones((50, 100))}, r"`Gamma` .*array of shape \(50, 100\)"),
        ((), {"Gamma": [[1], [2, 3]]}, "`Gamma` must contain one number for each channel"),
        ((), {"Input": []}, "`Input` must be a positive integer"),
        ((), {"Input": [2, 3], "Beta": [1, 2, 3]}, "Received: Input for 2, Beta for 3"),
        ((), {"Input": [2, 3], "Beta": [1, 2], "Interleaving": True}, "Input for 3, Beta for 2"),
        ((), {"Gamma": [1, 2], "MovingMean": [1]}, "Received: Gamma for 2, MovingMean for 1"),
    ],
)
def test_bad_options(pairs, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        BatchNormalizationLayer(*pairs, **options)


def test_bad_names_and_layers():
    with pytest.raises(ValueError, match="Did you mean 'MovingMean'"):
        NetExtract(BatchNormalizationLayer(), "MovingMeans")
    with pytest.raises(TypeError, match=r"must be a keras_norm\.BatchNormalization"):
        NetExtract(keras.layers.Dense(1), "Beta")


def test_parts_of_models():
    inner = keras.Sequential([keras.Input((2, 4)), BatchNormalizationLayer()], name="inner")
    net = keras.Sequential([keras.Input((2, 4)), BatchNormalizationLayer(Gamma=[5, 6]), inner])
    name = net.layers[0].name
    for place in (1, 1.0, -2, name):
        assert NetExtract(net, [place, "Gamma"]).tolist() == [5, 6]
    assert NetExtract(net, 1) is net.layers[0]
    assert NetExtract(net, ["inner", 1, "Biases"]).tolist() == [0, 0]
    assert NetExtract(net, (2, -1, "Output")) == [2, 4]
    for place in (0, 3, 1.5, "inne", [], None, np.array([1, 2])):
        with pytest.raises(ValueError, match="has layers at positions 1 to 2"):
            NetExtract(net, [place, "Gamma"])
    with pytest.raises(ValueError, match="Did you mean 'inner'"):
        NetExtract(net, ["inne", "Gamma"])


def test_both_functions_take_the_same_names():
    layer = BatchNormalizationLayer(epsilon=0.5, GAMMA=[2, 3], output=[2, 3])
    assert NetExtract(layer, "epsilon") == 0.5
    assert NetExtract(layer, "gamma").tolist() == [2, 3]
    assert NetExtract(layer, "output") == NetExtract(layer, "INPUT") == [2, 3]


@pytest.mark.parametrize("size", [3.0, [3.0, 8.0], np.float64(3), (np.int64(3), 8.0)])
def test_sizes_can_be_floats(size):
    found = NetExtract(BatchNormalizationLayer(Input=size), "Input")
    assert found == [int(n) for n in np.ravel(size)]
    assert all(type(n) is int for n in found)


@pytest.mark.parametrize("options", [{}, {"Input": 2}])
@pytest.mark.parametrize("inputs", [[[1.0, 2.0], [3.0]], [[[1.0], [2.0, 3.0]]], []])
def test_ragged_lists(options, inputs):
    with pytest.raises(ValueError, match="A list must contain inputs of one size"):
        BatchNormalizationLayer(**options)(inputs)


def test_one_input_before_its_size_is_known():
    with pytest.raises(ValueError, match=r"not known yet.*BatchNormalizationLayer\(Input=2\)"):
        BatchNormalizationLayer()([1.0, 2.0])


def test_errors_at_build_have_wolframs_names():
    with pytest.raises(ValueError, match="`Scaling` of layer"):
        BatchNormalizationLayer(Scaling=[1, 2]).build((None, 3, 4))
