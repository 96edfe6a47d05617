"""Layer normalization that looks ahead where the other layers do not."""

import keras
import pytest
from keras import layers

import keras_norm
from tests.diagnosis.helpers import data, findings


def attention(x):
    layer = layers.MultiHeadAttention(1, 4, name="causal")
    return layer(x, x, use_causal_mask=True)


def convolution(x):
    return layers.Conv1D(4, 2, padding="causal", dilation_rate=2, name="causal")(x)


def recurrent(x):
    return layers.GRU(4, return_sequences=True, name="causal")(x)


def looks_ahead(x):
    return layers.MultiHeadAttention(1, 4)(x, x)


def both_ways(x):
    return layers.Bidirectional(layers.LSTM(2, return_sequences=True))(x)


def backwards(x):
    return layers.LSTM(4, return_sequences=True, go_backwards=True)(x)


def steps_that_are_padded_on_both_sides(x):
    return layers.Conv1D(4, 2, padding="same")(x)


def model(norm, layer):
    inputs = keras.Input((6, 4))
    return keras.Model(inputs, layer(norm(inputs)))


def times(*arguments):
    return [f for f in findings(model(*arguments), data(8, 6, 4)) if f.kind == "time"]


@pytest.mark.parametrize("layer", [attention, convolution, recurrent])
@pytest.mark.parametrize(("norm", "remedy"), [
    (keras_norm.LayerNormalization, "reduction_axes=-1"),
    (lambda: keras_norm.RMSNormalization(reduction_axes=[1, 2]), "reduction_axes=-1"),
    (lambda: layers.LayerNormalization(axis=[1, 2]), "axis=-1"),
])  # fmt: skip
def test_time_steps_that_are_mixed_in_causal_models(norm, remedy, layer):
    (finding,) = times(norm(), layer)
    assert finding.value == 6
    assert finding.channels == [0, 1, 2, 3]
    assert f"`{remedy}`" in finding.remedy
    assert "'causal' is causal" in finding.remedy


@pytest.mark.parametrize("layer", [attention, convolution, recurrent])
@pytest.mark.parametrize("norm", [
    lambda: keras_norm.LayerNormalization(reduction_axes=-1),
    keras_norm.RMSNormalization,
    layers.LayerNormalization,
    keras_norm.GroupNormalization,  # takes moments over all positions on purpose
    keras_norm.BatchNormalization,  # does not look ahead in inference
])  # fmt: skip
def test_steps_that_are_normalized_by_themselves(norm, layer):
    norm = keras_norm.GroupNormalization(2) if norm is keras_norm.GroupNormalization else norm()
    assert times(norm, layer) == []


@pytest.mark.parametrize(
    "layer", [looks_ahead, both_ways, backwards, steps_that_are_padded_on_both_sides]
)
def test_models_that_look_ahead_anyway(layer):
    assert times(keras_norm.LayerNormalization(), layer) == []


def test_convolutions_with_channels_first():
    """Only where Keras has them on this device; steps are the last axis then."""
    norm = keras_norm.LayerNormalization(axis=1)
    conv = layers.Conv1D(4, 2, padding="causal", data_format="channels_first")
    net = keras.Sequential([keras.Input((4, 6)), norm, conv])
    try:
        net(data(2, 4, 6))
    except Exception:
        pytest.skip("no convolution with channels first on this device")
    assert [f.kind for f in findings(net, data(8, 4, 6))] == ["time"]
    norm.reduction_axes = 1
    assert findings(net, data(8, 4, 6)) == []


def test_images_beside_a_causal_decoder():
    """The encoder's maps have no time; one of its sizes is the decoder's number of steps."""
    image, words = keras.Input((6, 6, 4)), keras.Input((6, 4))
    for over_words, expected in ((-1, []), (None, ["of words"])):
        x = keras_norm.LayerNormalization(name="of the image")(image)
        x = layers.GlobalAveragePooling2D()(x)
        y = keras_norm.LayerNormalization(reduction_axes=over_words, name="of words")(words)
        y = layers.GRU(4, return_sequences=True)(y, initial_state=x)
        found = findings(keras.Model([image, words], y), [data(8, 6, 6, 4), data(8, 6, 4)])
        assert [finding.name for finding in found] == expected


def test_images_in_time():
    frames = layers.TimeDistributed(keras_norm.LayerNormalization(name="of a frame"))
    over_time = keras_norm.LayerNormalization(name="of the film")
    for norm, expected in ((frames, []), (over_time, ["of the film"])):
        net = keras.Sequential([
            keras.Input((6, 5, 5, 2)), norm, layers.ConvLSTM2D(2, 3, return_sequences=True),
        ])  # fmt: skip
        assert [f.name for f in findings(net, data(4, 6, 5, 5, 2))] == expected


@pytest.mark.parametrize("summary", [layers.GlobalAveragePooling1D, lambda: layers.GRU(6)])
def test_classifiers_may_look_ahead(summary):
    """Their outputs have no steps; here they have as many classes as steps."""
    net = keras.Sequential([
        keras.Input((6, 4)), layers.GRU(5, return_sequences=True),
        keras_norm.LayerNormalization(), summary(), layers.Dense(6),
    ])  # fmt: skip
    assert findings(net, data(8, 6, 4)) == []
    net.pop()
    net.pop()
    assert [f.kind for f in findings(net, data(8, 6, 4))] == ["time"]
