"""Weights from .mat files of both versions, against MATLAB's own order of axes."""

import pickle
import sys
import warnings

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm import matlab
from tests.matlab import mat_files

# Sums of up to 36 products of numbers of size 1 in float32.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=["5", "7.3"])
def version(request):
    return request.param


def network():
    return keras.Sequential(
        [
            keras.Input((4, 3, 2)),
            keras.layers.Conv2D(5, (2, 3), name="conv"),
            matlab.batchNormalizationLayer(Name="bn"),
            keras.layers.Permute((3, 2, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(2, name="fc"),
        ]
    )


def weights():
    """The network's parameters with MATLAB's axes: spatial, spatial, channel, filter."""
    draw = np.random.default_rng(0).normal
    column = (1, 1, 5)
    return {
        ("conv", "Weights"): draw(size=(2, 3, 2, 5)).astype("float32"),
        ("conv", "Bias"): draw(size=column).astype("float32"),
        ("bn", "Offset"): draw(size=column).astype("float32"),
        ("bn", "Scale"): draw(size=column).astype("float32"),
        ("bn", "TrainedMean"): draw(size=column).astype("float32"),
        ("bn", "TrainedVariance"): draw(size=column).astype("float32") ** 2,
        ("fc", "Weights"): draw(size=(2, 15)),
        ("fc", "Bias"): draw(size=(2, 1)),
        ("softmax", "Scale"): np.ones((1, 1)),  # a layer that the model lacks
    }


def output(w, x):
    """What MATLAB computes, one image x at a time: its flattening runs down the first axis."""
    rows = []
    for i in range(3):
        products = w["conv", "Weights"] * x[i : i + 2, 0:3, :, None]
        rows.append(products.sum((0, 1, 2)) + w["conv", "Bias"][0, 0])
    y = np.stack(rows)[:, None, :]
    y = (y - w["bn", "TrainedMean"]) / np.sqrt(w["bn", "TrainedVariance"] + 1e-5)
    y = y * w["bn", "Scale"] + w["bn", "Offset"]
    return w["fc", "Weights"] @ y.ravel(order="F") + w["fc", "Bias"][:, 0]


def test_outputs_are_matlabs(version, tmp_path):
    mat_files.write(version, tmp_path / "net.mat", weights())
    net = network()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*flattens")
        matlab.load_weights(net, tmp_path / "net.mat")
    x = np.random.default_rng(1).normal(size=(2, 4, 3, 2))
    found = keras.ops.convert_to_numpy(net(x.astype("float32")))
    np.testing.assert_allclose(found, [output(weights(), image) for image in x], **TOLERANCE)


def load(tmp_path, version, layer, shape, values):
    """Returns the weights of a one-layer model, loaded from values with MATLAB's axes."""
    net = keras.Sequential([keras.Input(shape), layer])
    path = str(tmp_path / "net.mat")
    mat_files.write(version, path, {(layer.name, k): np.asarray(v) for k, v in values.items()})
    matlab.load_weights(net, path)
    return net.get_weights()


def test_order_of_axes(version, tmp_path):
    numbers = np.arange(24.0)
    (found,) = load(
        tmp_path, version, keras.layers.Conv1D(4, 3, use_bias=False), (5, 2),
        {"Weights": numbers.reshape(3, 2, 4)},
    )  # fmt: skip
    np.testing.assert_array_equal(found, numbers.reshape(3, 2, 4))
    # Two groups of one channel and three filters each: size-by-channel-by-filter-by-group.
    grouped = np.arange(12.0).reshape(2, 1, 3, 2)
    (found,) = load(
        tmp_path, version, keras.layers.Conv1D(6, 2, groups=2, use_bias=False), (5, 2),
        {"Weights": grouped},
    )  # fmt: skip
    np.testing.assert_array_equal(found[:, :, :3], grouped[:, :, :, 0])
    np.testing.assert_array_equal(found[:, :, 3:], grouped[:, :, :, 1])
    _, found = load(
        tmp_path, version, keras.layers.Conv1D(6, 2, groups=2), (5, 2),
        {"Weights": grouped, "Bias": np.array([[[1.0, 4], [2, 5], [3, 6]]])},
    )  # fmt: skip
    assert found.tolist() == [1, 2, 3, 4, 5, 6]  # 1-by-filter-by-group
    # Depthwise: height-by-width-by-1-by-filter-by-channel.
    depthwise = np.arange(24.0).reshape(2, 2, 1, 2, 3)
    (found,) = load(
        tmp_path, version,
        keras.layers.DepthwiseConv2D(2, depth_multiplier=2, use_bias=False), (4, 4, 3),
        {"Weights": depthwise},
    )  # fmt: skip
    assert found[1, 0, 2, 1] == depthwise[1, 0, 0, 1, 2]
    # One filter: MATLAB drops the last axis.
    (found,) = load(
        tmp_path, version, keras.layers.Conv2D(1, 2, use_bias=False), (4, 4, 3),
        {"Weights": numbers[:12].reshape(2, 2, 3)},
    )  # fmt: skip
    assert found.shape == (2, 2, 3, 1)


def test_other_layers(version, tmp_path):
    lstm = {
        "InputWeights": np.arange(24.0).reshape(8, 3),
        "RecurrentWeights": np.arange(16.0).reshape(8, 2),
        "Bias": np.arange(8.0)[:, None],
        "HiddenState": np.zeros((2, 1)),
        "CellState": np.zeros((2, 1)),
    }
    found = load(tmp_path, version, keras.layers.LSTM(2), (4, 3), lstm)
    np.testing.assert_array_equal(found[0], lstm["InputWeights"].T)
    np.testing.assert_array_equal(found[1], lstm["RecurrentWeights"].T)
    np.testing.assert_array_equal(found[2], np.arange(8))
    found = load(
        tmp_path, version, keras.layers.PReLU(shared_axes=[1, 2]), (4, 4, 3), {"Alpha": [[1, 2, 3]]}
    )
    np.testing.assert_array_equal(found[0], [[[1, 2, 3]]])
    values = {"Scale": [[2, 3]], "Offset": [[4], [5]]}
    found = load(tmp_path, version, keras.layers.GroupNormalization(1), (2,), values)
    np.testing.assert_array_equal(found, [[2, 3], [4, 5]])
    dense = keras.layers.TimeDistributed(keras.layers.Dense(1, use_bias=False), name="fc")
    (found,) = load(tmp_path, version, dense, (4, 2), {"Weights": [[1, 2]]})
    np.testing.assert_array_equal(found, [[1], [2]])


def test_models_in_models(version, tmp_path):
    block = keras.Sequential([keras.Input((2,)), matlab.layerNormalizationLayer(Name="ln")])
    block.name = "block"
    net = keras.Sequential([keras.Input((2,)), block, matlab.layerNormalizationLayer(Name="ln")])
    entries = {
        ("block/ln", "Scale"): np.array([[1.0, 2.0]]),
        ("block/ln", "Offset"): np.array([[3.0, 4.0]]),
        ("ln", "Scale"): np.array([[5.0, 6.0]]),
        ("ln", "Offset"): np.array([[7.0, 8.0]]),
    }
    mat_files.write(version, tmp_path / "net.mat", entries)
    matlab.load_weights(net, tmp_path / "net.mat")
    assert np.concatenate(net.get_weights()).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def changed(change):
    """Returns the network's parameters with one change; None takes a parameter away."""
    entries = {**weights(), **change}
    return {place: value for place, value in entries.items() if value is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {("fc", "Weights"): None, ("fc", "Bias"): None, ("fc1", "Bias"): np.ones((2, 1))},
            "lacks the layer 'fc' of the model. The closest that it has is 'fc1'",
        ),
        ({("bn", "TrainedMean"): None}, "lacks the parameter 'TrainedMean' of layer 'bn'"),
        ({("fc", "Alpha"): np.ones((1, 1))}, "layer 'fc'.* has no parameter 'Alpha'"),
        (
            {("fc", "Weights"): np.ones((15, 2))},
            r"layer 'fc', parameter 'Weights': the size is 15-by-2, and must be 2-by-15, as .*"
            r"takes \(15, 2\)",
        ),
        ({("bn", "Scale"): np.ones((1, 4))}, "layer 'bn', parameter 'Scale': the size is 1-by-4"),
        ({("conv", "Weights"): np.ones((2, 3))}, "layer 'conv', parameter 'Weights': the size"),
        ({("bn", "Scale"): np.ones((1, 0))}, "layer 'bn', parameter 'Scale': the size is 1-by-0"),
        (
            {("bn", "Offset"): np.array([[1, 2, 3, 4, np.nan]])},
            "layer 'bn', parameter 'Offset': the value contains NaN",
        ),
        ({("conv", "Bias"): np.full((5, 1), np.inf)}, "layer 'conv', parameter 'Bias'.*Inf"),
        (
            {("bn", "TrainedVariance"): -np.ones((1, 5))},
            "layer 'bn', parameter 'TrainedVariance': a variance cannot be negative",
        ),
        ({("bn", "Scale"): "ones"}, "layer 'bn', parameter 'Scale': the value must be a numeric"),
    ],
)
def test_bad_files_leave_the_model_as_it_was(version, tmp_path, change, message):
    path = tmp_path / "net.mat"
    mat_files.write(version, path, changed(change))
    net = network()
    before = net.get_weights()
    with pytest.raises(ValueError, match=message) as error:
        matlab.load_weights(net, path)
    assert str(path) in str(error.value)
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_files_with_other_content(version, tmp_path):
    path = tmp_path / "net.mat"
    one = np.ones((1, 1))
    mat_files.WRITERS[version](path, {"Layer": ["a"], "Parameter": ["Scale"]})
    with pytest.raises(ValueError, match="lacks the variable 'Value'"):
        matlab.load_weights(network(), path)
    mat_files.WRITERS[version](path, {"Layer": ["a", "b"], "Parameter": ["c"], "Value": [one]})
    with pytest.raises(ValueError, match="differ in length"):
        matlab.load_weights(network(), path)
    mat_files.WRITERS[version](path, {"Layer": [one], "Parameter": ["c"], "Value": [one]})
    with pytest.raises(ValueError, match="names must be text"):
        matlab.load_weights(network(), path)
    twice = {"Layer": ["a", "a"], "Parameter": ["c", "c"], "Value": [one, one]}
    mat_files.WRITERS[version](path, twice)
    with pytest.raises(ValueError, match="layer 'a', parameter 'c': the file contains it twice"):
        matlab.load_weights(network(), path)


def test_damaged_files(version, tmp_path):
    path = tmp_path / "net.mat"
    mat_files.write(version, path, weights())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"is not a \.mat file that can be read"):
        matlab.load_weights(network(), path)


def test_what_is_no_mat_file(tmp_path):
    path = tmp_path / "net.mat"
    for content in (b"", b"a text", pickle.dumps(weights())):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a \.mat file of version 5"):
            matlab.load_weights(network(), path)
    with pytest.raises(FileNotFoundError):
        matlab.load_weights(network(), tmp_path / "none.mat")


def test_missing_packages(version, tmp_path, monkeypatch):
    path = tmp_path / "net.mat"
    mat_files.write(version, path, weights())
    package = {"5": "scipy", "7.3": "h5py"}[version]
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"needs {package}: pip install"):
        matlab.load_weights(network(), path)


def test_models_that_cannot_be_loaded(tmp_path):
    path = tmp_path / "net.mat"
    gru = {"InputWeights": np.ones((6, 3)), "RecurrentWeights": np.ones((6, 2))}
    with pytest.raises(ValueError, match="parameter 'InputWeights': parameters of GRU"):
        load(tmp_path, "5", keras.layers.GRU(2, use_bias=False, name="gru"), (4, 3), gru)
    with pytest.raises(ValueError, match="has no weights yet"):
        matlab.load_weights(keras.Sequential([keras.layers.Dense(1)]), path)
    with pytest.raises(TypeError, match="must be a Keras model"):
        matlab.load_weights(keras_norm.BatchNormalization(), path)


def test_a_flatten_of_an_image_warns(tmp_path):
    net = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(name="flat"), keras.layers.Dense(1)]
    )
    net.layers[-1].name = "fc"
    entries = {("fc", "Weights"): np.ones((1, 4)), ("fc", "Bias"): np.ones((1, 1))}
    mat_files.write("5", tmp_path / "net.mat", entries)
    with pytest.warns(UserWarning, match=r"Layer 'flat' flattens.*Permute\(\(3, 2, 1\)\)"):
        matlab.load_weights(net, tmp_path / "net.mat")
