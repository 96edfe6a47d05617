"""Factors by MATLAB's functions, in both forms of the call."""

import keras
import pytest

import keras_norm
from keras_norm import matlab

PAIRS = [
    (matlab.setLearnRateFactor, matlab.getLearnRateFactor, "lr_multiplier"),
    (matlab.setL2Factor, matlab.getL2Factor, "l2_multiplier"),
]


@pytest.fixture
def net():
    block = keras.Sequential([keras.Input((4,)), matlab.layerNormalizationLayer(Name="ln")])
    block.name = "block"
    return keras.Sequential(
        [
            keras.Input((5, 4)),
            keras.layers.LSTM(4, name="lstm"),
            block,
            matlab.batchNormalizationLayer(Name="bn"),
            keras.layers.Dense(3, name="fc"),
        ]
    )


@pytest.mark.parametrize(("set_factor", "get_factor", "multiplier"), PAIRS)
@pytest.mark.parametrize("built", [False, True])
def test_of_a_layer(set_factor, get_factor, multiplier, built):
    layer = matlab.batchNormalizationLayer()
    if built:
        layer.build((None, 3))
    assert get_factor(layer, "Scale") == 1
    assert set_factor(layer, "Scale", 2) is layer
    assert set_factor(layer, "Offset", 0) is layer
    assert get_factor(layer, "Scale") == 2
    assert get_factor(layer, "Offset") == 0
    if not built:
        layer.build((None, 3))
    assert getattr(layer.gamma, multiplier) == 2
    assert getattr(layer.beta, multiplier) == 0


@pytest.mark.parametrize(("set_factor", "get_factor", "multiplier"), PAIRS)
def test_of_a_layer_in_a_net(net, set_factor, get_factor, multiplier):
    assert set_factor(net, "bn", "Scale", 2) is net
    set_factor(net, "block/ln", "Offset", 3)
    set_factor(net, "block/ln/Scale", 6)
    assert get_factor(net, "block/ln/Scale") == get_factor(net, "block/ln", "Scale") == 6
    set_factor(net, "fc", "Weights", 4)
    set_factor(net, "lstm", "RecurrentWeights", 5)
    assert getattr(net.get_layer("bn").gamma, multiplier) == 2
    assert getattr(net.get_layer("block").layers[0].beta, multiplier) == 3
    assert getattr(net.get_layer("fc").kernel, multiplier) == 4
    assert getattr(net.get_layer("lstm").cell.recurrent_kernel, multiplier) == 5
    assert get_factor(net, "bn", "Scale") == 2
    assert get_factor(net, "lstm", "InputWeights") == 1
    assert get_factor(net, "lstm", "RecurrentWeights") == 5


def test_biases_have_the_l2_factor_0_until_they_get_another(net):
    assert matlab.getL2Factor(net, "fc", "Bias") == 0
    assert matlab.getLearnRateFactor(net, "fc", "Bias") == 1
    matlab.setL2Factor(net, "fc", "Bias", 1)
    assert matlab.getL2Factor(net, "fc", "Bias") == 1


def test_properties_follow(net):
    layer = net.get_layer("bn")
    matlab.setL2Factor(layer, "Offset", 7)
    assert matlab.properties(layer)["OffsetL2Factor"] == 7
    keras_norm.set_multipliers(layer.gamma, lr=8)
    assert matlab.getLearnRateFactor(layer, "Scale") == 8


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("Scale",), TypeError, r"takes \(layer, parameterName, factor\), \(net, layerName"),
        (("bm", "Scale", 1), ValueError, "no layer 'bm'. The closest that it has is 'bn'"),
        (("bn", "Scales", 1), ValueError, "no parameter 'Scales'. Did you mean 'Scale'"),
        (("bn", "TrainedMean", 1), ValueError, "It has: Scale, Offset"),
        (("fc", "Weight", 1), ValueError, "Did you mean 'Weights'"),
        (("bn", "Scale", -1), ValueError, "`factor` must be a finite number >= 0"),
        (("bn", "Scale", None), TypeError, "`factor` must be a finite number >= 0"),
        (("bn", "Scale"), TypeError, r"\(net, parameterPath, factor\). Received: factor='Scale'"),
    ],
)
def test_bad_calls(net, arguments, error, message):
    with pytest.raises(error, match=message):
        matlab.setLearnRateFactor(net, *arguments)


def test_layers_without_the_parameter():
    layer = keras_norm.BatchNormalization(scale=False)
    with pytest.raises(ValueError, match=r"no parameter 'Scale'.*It has: Offset"):
        matlab.setLearnRateFactor(layer, "Scale", 2)
    with pytest.raises(ValueError, match=r"has no parameters. If it is not built"):
        matlab.setLearnRateFactor(keras.layers.Dense(1), "Weights", 2)
    with pytest.raises(TypeError, match="must be a Keras model"):
        matlab.setLearnRateFactor(layer, "bn", "Scale", 2)
    with pytest.raises(TypeError, match=r"`layer` must be a Keras layer.*Received: 'bn'"):
        matlab.setLearnRateFactor("bn", "Scale", 2)
    both = keras.layers.Bidirectional(keras.layers.LSTM(2))
    both.build((None, 3, 2))
    with pytest.raises(ValueError, match="has two variables for the parameter"):
        matlab.setLearnRateFactor(both, "Bias", 2)
