"""Models as people build them, with nothing wrong."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_norm
from tests.diagnosis.helpers import data, findings


class Positions(layers.Layer):
    """Adds a vector to each step, and passes the mask on."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True
        self.vectors = layers.Embedding(12, 16)

    def call(self, x):
        return x + self.vectors(keras.ops.arange(12))


def transformer(norm, causal):
    tokens = keras.Input((12,), dtype="int32")
    x = Positions()(layers.Embedding(50, 16, mask_zero=True)(tokens))
    for _ in range(2):
        attention = layers.MultiHeadAttention(2, 8)(x, x, use_causal_mask=causal)
        x = norm()(layers.Add()([x, attention]))
        x = norm()(x + layers.Dense(16)(layers.Dense(32, activation="gelu")(x)))
    return keras.Model(tokens, layers.Dense(50)(x))


def sentences():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50, (64, 12))
    return np.where(np.arange(12) < rng.integers(4, 13, (64, 1)), tokens, 0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", [
    layers.LayerNormalization, keras_norm.RMSNormalization,
    lambda: keras_norm.LayerNormalization(reduction_axes=-1),
])  # fmt: skip
def test_transformers(norm, causal):
    assert findings(transformer(norm, causal), sentences()) == []


@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_transformers_that_are_built_wrong():
    kinds = {
        f.kind for f in findings(transformer(keras_norm.LayerNormalization, True), sentences())
    }
    # The plain sum loses the mask, and the default is to mix the steps.
    assert kinds == {"mask", "time"}


@pytest.mark.parametrize("cls", [keras_norm.BatchNormalization, layers.BatchNormalization])
def test_convolutional_network(cls):
    x = data(128, 8, 8, 1)
    y = (x.mean((1, 2, 3)) > 0).astype("int32")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False),
            cls(momentum=0.8),
            layers.ReLU(),
            layers.Conv2D(8, 3, use_bias=False),
            cls(momentum=0.8),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
            layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(x, y, epochs=5, batch_size=16, verbose=0)
    assert findings(model, x, batch_size=16) == []
