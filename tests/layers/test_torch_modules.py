"""A layer inside a PyTorch module follows the module's `.train()` and `.eval()`."""

import copy
import io

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.conversion import from_torch

if keras.backend.backend() != "torch":
    pytest.skip("for the PyTorch backend", allow_module_level=True)

import torch


@pytest.fixture
def images():
    return torch.as_tensor(np.random.default_rng(0).normal(3, 2, (8, 6, 5, 5)).astype("float32"))


def module_and_converted():
    """Returns a PyTorch module, and the same with the converted normalization."""
    theirs = torch.nn.Sequential(torch.nn.Conv2d(6, 4, 3), torch.nn.BatchNorm2d(4))
    ours = torch.nn.Sequential(copy.deepcopy(theirs[0]), from_torch(theirs[1]))
    return theirs, ours


def reloaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def close(ours, theirs):
    return torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("change", [None, copy.deepcopy, reloaded])
def test_modes_are_those_of_the_module(change, images):
    theirs, ours = module_and_converted()
    assert close(ours(images), theirs(images))  # a new module is in training mode
    theirs, ours = module_and_converted()
    theirs.eval()
    ours.eval()
    ours = change(ours) if change else ours
    assert close(ours(images), theirs(images))
    theirs.train()
    ours.train()
    ours = change(ours) if change else ours
    assert close(ours(images), theirs(images))
    mean = keras.ops.convert_to_numpy(ours[1].moving_mean)
    np.testing.assert_allclose(mean, theirs[1].running_mean.numpy(), atol=1e-5)


def test_the_argument_overrides_the_mode(images):
    layer = keras_norm.BatchNormalization(axis=1)
    module = torch.nn.ModuleList([layer])
    assert close(layer(images, training=False), images)
    module.eval()
    assert not close(layer(images, training=True), images)


def test_a_layer_outside_of_torch_modules_has_the_mode_of_keras(images):
    model = keras.Sequential([keras.Input((6, 5, 5)), keras_norm.BatchNormalization(axis=1)])
    model.compile("sgd", "mse")
    model.fit(images, images, verbose=0)
    before = model.get_weights()
    model(images)
    model.layers[0](images)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = keras_norm.BatchNormalization(axis=1)

    def call(self, x):
        return self.norm(x)


def test_an_attribute_of_a_keras_model_has_the_mode_of_keras(images):
    model = Subclassed()
    assert close(model(images), images)
    model.train()
    assert close(model(images), images)


def test_a_layer_that_is_compiled_by_itself_has_the_mode_of_keras(images):
    layer = keras_norm.BatchNormalization(axis=1)
    torch.compile(layer)
    assert close(layer(images), images)
