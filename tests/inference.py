"""Checks inference on a Keras backend that cannot train. Run by `test_inference_backends.py`."""

import tempfile

import keras
import numpy as np
import pytest

import keras_norm
from tests import oracle

BACKEND = keras.backend.backend()


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
    for needs_training in (keras_norm.update_population_statistics, keras_norm.diagnose):
        with pytest.raises(NotImplementedError, match=r"A pass over data.*supports inference only"):
            needs_training(model, x, verbose=0)


def check_conversion(x):
    """Converts a model, folds the result, and saves and loads it."""
    model = keras.Sequential(
        [keras.Input((5, 6, 8)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
    )
    model.layers[1].moving_variance.assign([1.0, 2.0, 3.0, 4.0])
    expected = model.predict(x, verbose=0)
    ours = keras_norm.from_keras(model)
    close(ours.predict(x, verbose=0), expected)
    folded = keras_norm.fold_batch_normalization(ours)
    assert len(folded.layers) == 1
    # Other factors round otherwise; OpenVINO convolves in 16 bits where the processor has them.
    close(folded.predict(x, verbose=0), expected, 1e-5 if BACKEND == "numpy" else 1e-2)
    with tempfile.TemporaryDirectory() as folder:
        ours.save(f"{folder}/model.keras")
        close(keras.saving.load_model(f"{folder}/model.keras").predict(x, verbose=0), expected)
    ours.layers[1].moving_variance.assign([4.0, 3.0, 2.0, 1.0])
    close(model.predict(x, verbose=0), expected)


def close(result, expected, tolerance=2e-6):
    assert oracle.error(keras.ops.convert_to_numpy(result), expected) < tolerance


data = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 8)).astype("float32")
check_layers(data)
check_model(data)
check_conversion(data)
print(f"inference works on {BACKEND}")
