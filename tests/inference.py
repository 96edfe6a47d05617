"""Checks inference on a Keras backend that cannot train. Run by `test_inference_backends.py`."""

import keras
import numpy as np
import pytest

import keras_norm
from tests import oracle


def check_layers(x):
    """Compares the layers with the oracle, without and with a mask."""
    mean, variance = np.arange(8.0), np.arange(1.0, 9.0)
    batch = keras_norm.BatchNormalization(
        moving_mean_initializer=mean, moving_variance_initializer=variance, synchronized=True
    )
    expected = (x - mean) / np.sqrt(variance + 1e-5)
    close(batch(x), expected)

    close(keras_norm.LayerNormalization()(x), oracle.normalize(x, (1, 2, 3))[0])
    grouped = oracle.normalize(x.reshape(4, 5, 6, 2, 4), (1, 2, 4))[0].reshape(x.shape)
    close(keras_norm.GroupNormalization(groups=2)(x), grouped)

    mask = np.arange(5) < np.array([5, 3, 1, 2])[:, None]
    weights = mask[:, :, None, None]
    valid = weights & np.ones(x.shape, bool)
    expected = oracle.normalize(x, (1, 2, 3), weights=weights)[0]
    result = keras.ops.convert_to_numpy(keras_norm.LayerNormalization()(x, mask=mask))
    close(result[valid], expected[valid])


def check_model(x):
    """Predicts with a model, and asks for what needs training."""
    model = keras.Sequential(
        [keras.Input((5, 6, 8)), keras_norm.BatchNormalization(), keras.layers.ReLU()]
    )
    close(model.predict(x, verbose=0), np.maximum(x / np.sqrt(1 + 1e-5), 0))
    with pytest.raises(NotImplementedError, match="supports inference only"):
        keras_norm.update_population_statistics(model, x, verbose=0)


def close(result, expected):
    assert oracle.error(keras.ops.convert_to_numpy(result), expected) < 2e-6


data = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 8)).astype("float32")
check_layers(data)
check_model(data)
print(f"inference works on {keras.backend.backend()}")
