"""Padding that is counted, and where the mask was lost."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_norm
from keras_norm.conversion.kinds.group import UnmaskedGroupNormalization
from tests.diagnosis.helpers import data, findings


def masks(model, x, **arguments):
    return [finding for finding in findings(model, x, **arguments) if finding.kind == "mask"]


def padded(samples=24, steps=6, channels=4):
    """Returns series of two lengths; a third of all steps is padding."""
    x = data(samples, steps, channels)
    x[::2, 2:] = 0
    return x


def functional(lose, norm):
    inputs = keras.Input((6, 4))
    x = layers.Masking(name="masking")(inputs)
    return keras.Model(inputs, norm(lose(x)))


def keep(x):
    return layers.Dense(8)(x)


def conv(x):
    return layers.Conv1D(8, 3, padding="same", name="conv")(x)


def strided(x):
    return layers.Dense(8)(layers.Conv1D(8, 3, strides=2, name="conv")(x))


def plus(x):
    return layers.Dense(8)(x + 1.0)


NORMS = {
    "batch": keras_norm.BatchNormalization,
    "group": lambda: keras_norm.GroupNormalization(groups=2),
    "layer": keras_norm.LayerNormalization,
    "rms": lambda: keras_norm.RMSNormalization(reduction_axes=[1, 2]),
    "Keras's batch": layers.BatchNormalization,
}


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("lose", "place"),
    [(keep, None), (conv, "in 'conv'"), (strided, "in 'conv'"), (plus, "in 'add")],
)
def test_where_a_mask_is_lost(norm, lose, place):
    model = functional(lose, NORMS[norm]())
    found = masks(model, padded())
    if place is None:
        assert found == []
        return
    (finding,) = found
    assert finding.layer is model.layers[-1]
    assert finding.value == pytest.approx(1 / 3)
    assert finding.channels == list(range(8))
    assert f"the mask is lost {place}" in finding.remedy
    # Without padding in the data there is nothing to count.
    assert masks(model, data(24, 6, 4)) == []


@pytest.mark.parametrize(
    ("norm", "remedy"),
    [
        (layers.GroupNormalization(2), "GroupNormalization does not support masks; replace it"),
        (layers.LayerNormalization(axis=[1, 2]), "replace it with `keras_norm.LayerNormalization`"),
        (
            layers.RMSNormalization(axis=[1, 2]),
            "RMSNormalization does not support masks; replace it with `keras_norm.RMSN",
        ),
        (UnmaskedGroupNormalization(2), "replace it with `keras_norm.GroupNormalization`"),
        (layers.LayerNormalization(), None),  # over the channels of a step
        (layers.RMSNormalization(), None),
        (keras_norm.LayerNormalization(reduction_axes=-1), None),
    ],
)
def test_layers_that_take_no_mask(norm, remedy):
    found = masks(functional(keep, type(norm).from_config(norm.get_config())), padded())
    if remedy is None:
        assert found == []
    else:
        assert found[0].value == pytest.approx(1 / 3)
        assert remedy in found[0].remedy


class Subclassed(keras.Model):
    """Adds positions to an embedding, with an operation or with a layer."""

    def __init__(self, add, **arguments):
        super().__init__(**arguments)
        self.embedding = layers.Embedding(9, 4, mask_zero=True, name="words")
        self.add, self.norm = add, keras_norm.LayerNormalization(name="norm")

    def call(self, tokens):
        x = self.embedding(tokens)
        return self.norm(self.add([x, ops.ones_like(x)]))


class AddPositions(layers.Add):
    def compute_mask(self, inputs, mask=None):
        return mask[0]


def tokens():
    x = np.random.default_rng(0).integers(1, 9, (24, 6))
    x[::2, 2:] = 0
    return x


@pytest.mark.parametrize("nested", [False, True])
def test_operations_in_subclassed_models(nested):
    def model(add):
        inner = Subclassed(add)
        return keras.Sequential([inner, layers.Dense(2)]) if nested else inner

    (finding,) = masks(model(sum), tokens())
    assert finding.name == "norm"
    assert "lost after 'words', in an operation that is not a layer" in finding.remedy
    assert masks(model(AddPositions()), tokens()) == []


class Block(layers.Layer):
    """Takes a mask and does not say that it passes it on."""

    def __init__(self, supports_masking, **arguments):
        super().__init__(**arguments)
        self.dense = layers.Dense(4)
        self.supports_masking = supports_masking

    def call(self, x, mask=None):
        return self.dense(x) + x


@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_layers_that_forget_to_say_that_they_support_masks():
    def model(supports_masking):
        block = Block(supports_masking, name="block")
        return keras.Sequential([keras.Input((6, 4)), layers.Masking(), block, NORMS["layer"]()])

    (finding,) = masks(model(False), padded())
    assert "lost in 'block'" in finding.remedy
    assert masks(model(True), padded()) == []


@pytest.mark.parametrize(
    "pool", [layers.LSTM(5), layers.GlobalAveragePooling1D(), layers.Bidirectional(layers.GRU(3))]
)
def test_layers_that_use_a_mask_up(pool):
    pool = type(pool).from_config(pool.get_config())
    model = keras.Sequential([
        keras.Input((6, 4)), layers.Masking(), pool, layers.RepeatVector(3),
        keras_norm.LayerNormalization(), keras_norm.BatchNormalization(),
    ])  # fmt: skip
    assert masks(model, padded()) == []


class Halves(layers.Layer):
    """The mean of the valid steps of each half."""

    def call(self, x, mask=None):
        weights = ops.cast(mask, "float32")[:, :, None]
        x, weights = (ops.reshape(v, (-1, 2, 3, v.shape[-1])) for v in (x * weights, weights))
        return ops.sum(x, 2) / ops.maximum(ops.sum(weights, 2), 1)


@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_layers_that_use_a_mask_to_change_the_steps():
    model = keras.Sequential(
        [keras.Input((6, 4)), layers.Masking(), Halves(), keras_norm.LayerNormalization()]
    )
    assert masks(model, padded()) == []


def test_masks_that_are_given():
    inputs = keras.Input((6, 4))
    mask = ops.any(inputs != 0, axis=-1)
    x = layers.Conv1D(8, 3, padding="same")(inputs)
    model = keras.Model(inputs, keras_norm.LayerNormalization()(x, mask=mask))
    assert masks(model, padded()) == []


@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_frozen_batch_normalization_counts_nothing():
    norm = keras_norm.BatchNormalization()
    model = functional(conv, norm)
    assert len(masks(model, padded())) == 1
    norm.trainable = False
    assert masks(model, padded()) == []
