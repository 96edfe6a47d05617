"""`trainnet` against MATLAB's update formulas, worked by hand."""

import keras
import numpy as np
import pytest

from keras_norm import matlab

# Updates of size 1 in float32, over at most four steps.
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}
ONE = np.ones((1, 1), "float32")


def line(weight=1.0, bias=0.5):
    """A model y = weight * x + bias, whose layer is named "fc"."""
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="fc")])
    net.get_layer("fc").set_weights([np.full((1, 1), weight), np.full((1,), bias)])
    return net


def weights(net):
    return [float(weight.squeeze()) for weight in net.get_layer("fc").get_weights()]


def train(net, solver, x=ONE, y=0 * ONE, loss="mae", **options):
    """Trains on the mean absolute error, whose gradients are 1 while predictions are too large."""
    options = {"Verbose": False, "MaxEpochs": 1, "L2Regularization": 0, **options}
    return matlab.trainnet(x, y, net, loss, matlab.trainingOptions(solver, **options))


def test_momentum_and_l2():
    net = line()
    assert train(net, "sgdm", MaxEpochs=2, InitialLearnRate=0.1, L2Regularization=0.5) is net
    # weight: gradients 1 + 0.5 * w; bias: 1, as biases have the L2 factor 0.
    first = -0.1 * 1.5
    second = 0.9 * first - 0.1 * (1 + 0.5 * (1 + first))
    np.testing.assert_allclose(weights(net), [1 + first + second, 0.5 - 0.1 - 0.19], **TOLERANCE)


def test_factors():
    net = line()
    matlab.setLearnRateFactor(net, "fc", "Bias", 0)
    matlab.setL2Factor(net, "fc", "Weights", 3)
    train(net, "sgdm", InitialLearnRate=0.1, L2Regularization=0.5)
    np.testing.assert_allclose(weights(net), [1 - 0.1 * (1 + 3 * 0.5), 0.5], **TOLERANCE)
    matlab.setLearnRateFactor(net, "fc", "Bias", 2)
    matlab.setL2Factor(net, "fc", "Bias", 1)
    train(net, "sgdm", InitialLearnRate=0.1, L2Regularization=0.5)
    np.testing.assert_allclose(weights(net)[1], 0.5 - 0.2 * (1 + 0.5 * 0.5), **TOLERANCE)


def test_factors_of_scale_and_offset():
    layer = matlab.groupNormalizationLayer("all-channels", ScaleL2Factor=2, OffsetLearnRateFactor=3)
    net = keras.Sequential([keras.Input((2,)), layer])
    x, y = np.array([[1.0, 1.0]]), np.array([[-1.0, -1.0]])
    # The normalized input is 0, so the scale's gradient is its L2 alone, the offset's 1/2 each.
    train(net, "sgdm", x, y, InitialLearnRate=0.1, L2Regularization=0.5)
    np.testing.assert_allclose(layer.get_weights()[0], 1 - 0.1 * 2 * 0.5, **TOLERANCE)
    np.testing.assert_allclose(layer.get_weights()[1], -0.3 * 0.5, **TOLERANCE)


def test_adam():
    net = train(line(), "adam", MaxEpochs=2, InitialLearnRate=0.1)
    # Equal gradients: with its bias corrected each moment is 1, each step the learning rate.
    # Keras takes 1 - 0.999 in float32, whose error is 5e-5 of it, and then its root.
    np.testing.assert_allclose(weights(net), [0.8, 0.3], rtol=3e-5)
    net = train(line(weight=1e-3, bias=0.0), "adam", Epsilon=1.0, InitialLearnRate=0.1)
    # First step: rate * sqrt(1 - 0.999) / (1 - 0.9) * 0.1 * g / (sqrt(0.001 * g^2) + epsilon)
    step = 0.1 * 0.001**0.5 / (0.001**0.5 + 1)
    np.testing.assert_allclose(weights(net), [1e-3 - step, -step], **TOLERANCE)


def test_rmsprop():
    net = train(
        line(), "rmsprop", MaxEpochs=2, InitialLearnRate=0.1, SquaredGradientDecayFactor=0.75
    )
    # Moving averages of the squared gradient 1: 0.25, then 0.4375.
    steps = 0.1 / 0.25**0.5 + 0.1 / 0.4375**0.5
    np.testing.assert_allclose(weights(net), [1 - steps, 0.5 - steps], **TOLERANCE)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0])
def test_rmsprop_adds_epsilon_to_the_root(epsilon):
    net = train(line(), "rmsprop", MaxEpochs=2, InitialLearnRate=0.1, Epsilon=epsilon)
    # Moving averages of the squared gradient 1: 0.1, then 0.19.
    steps = 0.1 / (0.1**0.5 + epsilon) + 0.1 / (0.19**0.5 + epsilon)
    np.testing.assert_allclose(weights(net), [1 - steps, 0.5 - steps], **TOLERANCE)


def test_a_model_trained_with_rmsprop_can_be_saved(tmp_path):
    net = train(line(), "rmsprop")
    net.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    assert type(again.optimizer.inner_optimizer) is type(net.optimizer.inner_optimizer)


def test_rmsprop_with_small_gradients():
    # The gradient is 1e-6, the root of its moving average 3e-7, which MATLAB's Epsilon of 1e-8
    # changes by 3%. (Under the root, 1e-8 would make the step 300 times smaller.)
    net = train(line(weight=0.0), "rmsprop", 1e-6 * ONE, InitialLearnRate=0.1)
    np.testing.assert_allclose(weights(net)[0], -0.1 / (0.1**0.5 + 0.01), rtol=0.04)


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        # Gradients 4 of the weight and 1 of the bias.
        ("l2norm", [2, 1]),
        ("global-l2norm", [8 / 17**0.5, 2 / 17**0.5]),
        ("absolute-value", [2, 1]),
    ],
)
def test_gradient_threshold(method, steps):
    net = train(
        line(), "sgdm", 4 * ONE, GradientThreshold=2, GradientThresholdMethod=method,
        InitialLearnRate=0.01,
    )  # fmt: skip
    expected = [1 - 0.01 * steps[0], 0.5 - 0.01 * steps[1]]
    np.testing.assert_allclose(weights(net), expected, **TOLERANCE)


def test_gradient_threshold_per_entry_and_per_parameter():
    expected = {"l2norm": [3 / 5 * 2, 4 / 5 * 2], "absolute-value": [2, 2]}
    for method, steps in expected.items():
        net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        net.set_weights([np.ones((2, 1))])
        train(
            net, "sgdm", np.array([[3.0, 4.0]]), GradientThreshold=2,
            GradientThresholdMethod=method, InitialLearnRate=0.1,
        )  # fmt: skip
        found = 1 - net.get_weights()[0][:, 0]
        np.testing.assert_allclose(found, 0.1 * np.array(steps), **TOLERANCE)


def test_piecewise_schedule():
    net = train(
        line(), "sgdm", MaxEpochs=4, Momentum=0, InitialLearnRate=0.1,
        LearnRateSchedule="piecewise", LearnRateDropFactor=0.5, LearnRateDropPeriod=2,
    )  # fmt: skip
    np.testing.assert_allclose(weights(net)[0], 1 - 0.1 - 0.1 - 0.05 - 0.05, **TOLERANCE)


class Recorded(keras.Sequential):
    """A model that is not trained, but keeps what it would have been trained with."""

    def compile(self, optimizer, loss):
        self.given_loss = loss

    def fit(self, x, y, shuffle, **arguments):
        self.given_data = (x[:, 0].tolist(), y[:, 0].tolist(), shuffle)


@pytest.mark.parametrize(
    ("losses", "prediction", "target", "expected"),
    [
        (("mse", "mean-squared-error", "l2loss"), [[1.0, 2.0]], [[2.0, 4.0]], 2.5),
        (("mae", "mean-absolute-error", "l1loss"), [[1.0, 2.0]], [[2.0, 4.0]], 1.5),
        # |d| = 1: 0.5; |d| = 3: 3 - 0.5
        (("huber",), [[1.0, 2.0]], [[2.0, 5.0]], 1.5),
        (("crossentropy",), [[0.25, 0.75]], [[1.0, 0.0]], np.log(4)),
        (("index-crossentropy",), [[0.25, 0.75]], [[0]], np.log(4)),
        (("binary-crossentropy",), [[0.25] * 2], [[1.0, 0.0]], np.log(4) - np.log(3) / 2),
        ((keras.losses.MeanSquaredError(),), [[1.0, 2.0]], [[2.0, 4.0]], 2.5),
    ],
)
def test_losses(losses, prediction, target, expected):
    for loss in losses:
        net = Recorded([keras.Input((2,)), keras.layers.Dense(2)])
        train(net, "sgdm", np.ones((1, 2)), np.array(target), loss)
        found = float(net.given_loss(np.array(target), np.array(prediction)))
        assert found == pytest.approx(expected, rel=1e-6)


def test_shuffle():
    x = np.arange(8.0)[:, None]
    in_order = x[:, 0].tolist()
    given = {}
    for shuffle in ("never", "once", "every-epoch"):
        net = Recorded([keras.Input((1,)), keras.layers.Dense(1)])
        given[shuffle] = train(net, "sgdm", x, 10 * x, Shuffle=shuffle).given_data
    assert given["never"] == (in_order, (10 * x)[:, 0].tolist(), False)
    assert given["every-epoch"] == (in_order, (10 * x)[:, 0].tolist(), True)
    inputs, targets, every_epoch = given["once"]
    assert inputs != in_order
    assert sorted(inputs) == in_order
    assert targets == [10 * value for value in inputs]
    assert not every_epoch


@pytest.mark.parametrize("mode", ["moving", "auto", "population"])
def test_batch_normalization_statistics(mode):
    layer = matlab.batchNormalizationLayer(MeanDecay=0.5, VarianceDecay=0.5)
    net = keras.Sequential([keras.Input((1,)), layer, keras.layers.Dense(1)])
    x = np.array([[1.0], [3.0], [11.0]])
    train(net, "sgdm", x, x, MiniBatchSize=2, Shuffle="never", BatchNormalizationStatistics=mode)
    found = [float(layer.moving_mean[0]), float(layer.moving_variance[0])]
    if mode == "population":
        expected = [5, (16 + 4 + 36) / 3]
    else:  # batches 1, 3 and 11, from 0 and 1
        expected = [0.5 * (0.5 * 2) + 0.5 * 11, 0.5 * (0.5 + 0.5 * 1)]
    np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_the_population_pass_has_batches_of_the_options_size():
    layers = [matlab.batchNormalizationLayer() for _ in range(2)]
    net = keras.Sequential([keras.Input((1,)), layers[0], keras.layers.ReLU(), layers[1]])
    x = np.array([[1.0], [3.0], [4.0], [12.0]])
    train(
        net, "sgdm", x, x, "mse", MiniBatchSize=2, Shuffle="never", InitialLearnRate=1e-12,
        BatchNormalizationStatistics="population",
    )  # fmt: skip
    # In the pass each pair is -1, 1 behind the first layer and 0, 1 behind ReLU, up to Epsilon. In
    # one batch of four the numbers, less their mean 5, would be -4, -2, -1, 7 over the deviation.
    np.testing.assert_allclose(layers[1].moving_mean, [0.5], rtol=1e-4)
    np.testing.assert_allclose(layers[1].moving_variance, [0.25], rtol=1e-4)


def test_population_without_batch_normalization_changes_nothing():
    net = train(line(), "sgdm", BatchNormalizationStatistics="population", InitialLearnRate=0.1)
    np.testing.assert_allclose(weights(net), [0.9, 0.4], **TOLERANCE)


def test_validation_and_plot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    train(line(), "sgdm", ValidationData=(ONE, ONE), MaxEpochs=3, Plots="training-progress")
    lines = pyplot.gcf().axes[0].lines
    assert [line.get_label() for line in lines] == ["Training", "Validation"]
    assert [len(line.get_xdata()) for line in lines] == [3, 3]
    pyplot.close()


def test_verbose(capsys):
    train(line(), "sgdm")
    assert capsys.readouterr().out == ""
    train(line(), "sgdm", Verbose=True)
    assert "loss" in capsys.readouterr().out


def test_structures_of_arrays_and_models_that_are_not_built():
    net = keras.Sequential([keras.layers.Dense(1, name="fc")])
    train(net, "sgdm")
    assert matlab.getL2Factor(net, "fc", "Bias") == 0
    inputs = {name: keras.Input((1,), name=name) for name in "ab"}
    net = keras.Model(inputs, keras.layers.Dense(1)(inputs["a"] + inputs["b"]))
    train(net, "sgdm", {"a": ONE, "b": ONE})
    assert np.isfinite(net.history.history["loss"][0])


def test_options_have_matlabs_defaults():
    options = matlab.trainingOptions("adam")
    expected = {
        "SolverName": "adam",
        "InitialLearnRate": 0.001,
        "GradientDecayFactor": 0.9,
        "SquaredGradientDecayFactor": 0.999,
        "Epsilon": 1e-8,
        "LearnRateSchedule": "none",
        "LearnRateDropFactor": 0.1,
        "LearnRateDropPeriod": 10,
        "MaxEpochs": 30,
        "MiniBatchSize": 128,
        "Shuffle": "once",
        "L2Regularization": 1e-4,
        "GradientThreshold": np.inf,
        "GradientThresholdMethod": "l2norm",
        "ValidationData": None,
        "Verbose": True,
        "Plots": "none",
        "BatchNormalizationStatistics": "auto",
    }
    assert vars(options) == expected
    assert "MaxEpochs: 30" in repr(options)
    sgdm = matlab.trainingOptions("sgdm")
    assert (sgdm.InitialLearnRate, sgdm.Momentum) == (0.01, 0.9)
    rmsprop = matlab.trainingOptions("rmsprop")
    assert (rmsprop.InitialLearnRate, rmsprop.SquaredGradientDecayFactor) == (0.001, 0.9)


def test_options_can_be_assigned():
    options = matlab.trainingOptions("sgdm", "MaxEpochs", 2, "ValidationData", [])
    options.MaxEpochs = 3
    assert options.MaxEpochs == 3
    with pytest.raises(ValueError, match="`MaxEpochs` must be a positive integer"):
        options.MaxEpochs = 0
    with pytest.raises(AttributeError, match="Did you mean 'MaxEpochs'"):
        options.MaxEpoch = 1


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        ("sgd", {}, "Did you mean 'sgdm'"),
        ("adam", {"Momentum": 0.9}, "trainingOptions for 'adam' has no property 'Momentum'"),
        ("sgdm", {"MaxEpoch": 1}, "Did you mean 'MaxEpochs'"),
        ("adam", {"Momentum": 0.5}, "no property 'Momentum'. It takes: InitialLearnRate"),
        ("adam", {"ValidationData": (1,)}, "a pair of .*type tuple with 1 entries"),
        ("sgdm", {"InitialLearnRate": 0}, "`InitialLearnRate` must be"),
        ("adam", {"GradientDecayFactor": 1}, "`GradientDecayFactor` must be .*>= 0 and < 1"),
        ("sgdm", {"MiniBatchSize": 1.5}, "`MiniBatchSize` must be a positive integer"),
        ("sgdm", {"GradientThreshold": np.nan}, "`GradientThreshold` must be"),
        ("sgdm", {"L2Regularization": -1}, "`L2Regularization` must be"),
        ("sgdm", {"Shuffle": "epoch"}, "`Shuffle` must be one of 'once'"),
        ("sgdm", {"Verbose": "yes"}, "`Verbose` must be true or false"),
        ("sgdm", {"ValidationData": [1]}, "`ValidationData` must be a pair"),
        ("sgdm", {"BatchNormalizationStatistics": "popul"}, "Did you mean 'population'"),
    ],
)
def test_bad_options(solver, options, message):
    with pytest.raises(ValueError, match=message):
        matlab.trainingOptions(solver, **options)


def test_bad_calls():
    options = matlab.trainingOptions("sgdm")
    with pytest.raises(ValueError, match="Did you mean 'crossentropy'"):
        matlab.trainnet(ONE, ONE, line(), "crosentropy", options)
    with pytest.raises(TypeError, match="`net` must be a Keras model"):
        matlab.trainnet(ONE, line(), "mse", options, None)
    with pytest.raises(TypeError, match="`options` must come from"):
        matlab.trainnet(ONE, ONE, line(), "mse", {"MaxEpochs": 1})
    with pytest.raises(ValueError, match=r"from 1 to 1.*subtract 1"):
        matlab.trainnet(ONE, np.array([1]), line(), "index-crossentropy", options)
    with pytest.raises(ValueError, match=r"one-hot, .*\('samples', 1\).*'index-crossentropy'"):
        matlab.trainnet(ONE, np.array([0]), line(), "crossentropy", options)
    with pytest.raises(TypeError, match=r"`lossFcn` must be a `keras.losses.Loss`, or one of"):
        matlab.trainnet(ONE, ONE, line(), lambda y, t: 0, options)
    for shuffle in ("once", "never"):
        options.Shuffle = shuffle
        with pytest.raises(ValueError, match=r"x of shape \(1, 1\), y of shape \(2, 1\)"):
            matlab.trainnet(ONE, np.ones((2, 1)), line(), "mse", options)


def two_outputs():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, "softmax")])


X = np.ones((4, 1), "float32")
GOOD = np.eye(2)[[0, 0, 1, 0]]
BAD_DATA = {
    "targets that would broadcast": (X, np.ones((4, 4)), line, "mse", r"shape .*\('samples', 1\)"),
    "too many targets": (X, np.ones((4, 3)), two_outputs, "mae", "must have the shape"),
    "one target for two outputs": (X, np.ones((4, 1)), two_outputs, "huber", "have the shape"),
    "a loss of Keras": (
        X, np.ones((4, 4)), line, keras.losses.MeanSquaredError(), "`y` of MeanSquaredError must",
    ),
    "another loss of Keras": (
        X, np.ones((4, 4)), line, keras.losses.LogCosh(), "`y` of LogCosh must have the shape",
    ),
    "rows of threes": (X, np.full((4, 2), 3.0), two_outputs, "crossentropy", "sum is 1"),
    "negative": (X, np.array([[2.0, -1.0]] * 4), two_outputs, "crossentropy", ">= 0"),
    "half a class": (X, np.full(4, 0.5), two_outputs, "index-crossentropy", "Received: 0.5"),
    "one-hot classes": (X, GOOD, two_outputs, "index-crossentropy", "one class for each sample"),
    "beyond 1": (X, np.full((4, 2), 2.0), two_outputs, "binary-crossentropy", "from 0 to 1"),
    "NaN": (X, np.full((4, 1), np.nan), line, "mse", "finite"),
    "words": (X, np.array([["a"]] * 4), line, "mse", "must be real numbers"),
    "complex": (X, 1j * X, line, "mse", "must be real numbers. Received: .* complex"),
    "complex inputs": (1j * X, X, line, "mse", "`x` must be real: .* as channels"),
    "empty": (X[:0], X[:0], line, "mse", "at least one sample"),
    "inputs": (np.ones((4, 3)), X, line, "mse", "`x` does not fit the model"),
    "several": (X, [X, X], line, "mse", "2 arrays for 1 outputs"),
    "several inputs": ([X, X], X, line, "mse", "`x` must have .* 2 arrays for 1 inputs"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("validated", [False, True])
def test_bad_data_raises_before_the_first_step(case, validated):
    x, y, make, loss, message = BAD_DATA[case]
    net = make()
    before = [weight.copy() for weight in net.get_weights()]
    data = (x, y)
    good = (X, GOOD if make is two_outputs else X)
    if isinstance(loss, str) and loss.startswith("index"):
        good = (X, np.array([0, 1, 1, 0]))
    options = {"ValidationData": data} if validated else {}
    message = message.replace("`x`", "").replace("`y`", "")
    with pytest.raises(ValueError, match=message):
        train(net, "sgdm", *(good if validated else data), loss, **options)
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    train(net, "sgdm", *good, loss, ValidationData=good)  # valid data still train
    assert any(np.any(old != new) for old, new in zip(before, net.get_weights(), strict=True))


def test_targets_without_the_last_axis_of_one_are_taken():
    net = train(line(), "sgdm", ONE, np.zeros(1), InitialLearnRate=0.1)
    np.testing.assert_allclose(weights(net), [0.9, 0.4], **TOLERANCE)


@pytest.mark.parametrize("ours", [False, True])
def test_population_refuses_kerass_batch_normalization(ours):
    layers = [keras.layers.BatchNormalization(name="theirs")]
    layers += [matlab.batchNormalizationLayer()] if ours else []
    net = keras.Sequential([keras.Input((1,)), *layers, keras.layers.Dense(1)])
    before = net.get_weights()
    with pytest.raises(ValueError, match=r"from_keras\(net\).*Received: theirs"):
        train(net, "sgdm", X, X, BatchNormalizationStatistics="population")
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    net.layers[0].trainable = False
    if ours:  # otherwise there is no pass that could warn
        with pytest.warns(UserWarning, match="keep their statistics: 'theirs'"):
            train(net, "sgdm", X, X, BatchNormalizationStatistics="population")
    else:
        train(net, "sgdm", X, X, BatchNormalizationStatistics="population")


@pytest.mark.parametrize("value", [np.array([1.0, 2.0]), [1, 2], "x", None, 10**400])
@pytest.mark.parametrize("name", ["GradientThreshold", "Verbose", "MaxEpochs", "L2Regularization"])
def test_options_that_are_no_numbers_are_named(name, value):
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        matlab.trainingOptions("sgdm", **{name: value})
