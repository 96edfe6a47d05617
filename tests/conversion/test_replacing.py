"""Other layers in place of batch normalization."""

import keras
import pytest

import keras_norm
from keras_norm.conversion import batch_to_group, replace_normalization
from tests import oracle
from tests.conversion import models
from tests.gradients import numpy


@pytest.mark.parametrize("make", models.MODELS, ids=lambda f: f.__name__)
def test_batch_becomes_group_everywhere(make, capsys):
    model = models.shake(make())
    replaced = replace_normalization(model, batch_to_group)
    found = models.kinds(replaced)
    assert keras_norm.GroupNormalization in found
    assert keras.layers.BatchNormalization not in found
    assert "BatchNormalization -> GroupNormalization (kept gamma, beta)" in (
        capsys.readouterr().out.replace("(kept beta)", "(kept gamma, beta)")
    )
    x = models.batch(3, 6, 6, 4)
    assert models.outputs(replaced, x, training=True).shape == models.outputs(model, x).shape


def test_what_fits_stays():
    inputs = keras.Input((5, 5, 66))
    layer = keras.layers.BatchNormalization(
        name="norm", epsilon=0.1, trainable=False, gamma_regularizer="l2"
    )
    model = models.shake(keras.Model(inputs, layer(inputs, training=False)))
    new = replace_normalization(model, batch_to_group).get_layer("norm")
    assert new.groups == 22  # of the divisors 1, 2, 3, 6, 11, 22, 33, 66
    assert not new.trainable
    assert isinstance(new.gamma.regularizer, keras.regularizers.L2)
    assert new.gamma.path == layer.gamma.path
    x = models.batch(2, 5, 5, 66)
    grouped = x.reshape(2, 5, 5, 22, 3)
    gamma, beta = (numpy(v).reshape(22, 3) for v in (layer.gamma, layer.beta))
    expected = oracle.normalize(grouped, [1, 2, 4], 0.1, gamma, beta)[0]
    assert oracle.error(numpy(new(x)).reshape(grouped.shape), expected) < 2e-6


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (12, 12), (31, 31), (37, 1), (1, 1)])
def test_most_groups(channels, groups):
    layer = keras_norm.BatchNormalization(axis=1)
    layer.build((None, channels, 4))
    assert batch_to_group(layer).groups == groups
    assert batch_to_group(layer).axis == 1
    features = keras_norm.BatchNormalization()
    features.build((None, channels))
    assert batch_to_group(features).groups == 1  # groups of one number would become 0
    assert batch_to_group(keras.layers.LayerNormalization()) is None


def test_a_function_says_what_takes_a_place(capsys):
    model = models.shake(models.sequential())
    wider = lambda layer: keras.layers.RMSNormalization() if layer.name == "norm" else None  # noqa: E731
    replaced = replace_normalization(model, wider)
    assert isinstance(replaced.layers[1], keras.layers.RMSNormalization)
    assert (
        "norm: BatchNormalization -> RMSNormalization (kept no weights)" in capsys.readouterr().out
    )
    replace_normalization(model, lambda layer: None)
    assert capsys.readouterr().out == "No normalization layer was replaced.\n"


def test_bad_arguments_are_named():
    model = models.sequential()
    for returned in ("layer", model.layers[1]):
        with pytest.raises(TypeError, match=r"`function` must return a new Keras layer.*'norm'"):
            replace_normalization(model, lambda layer, new=returned: new)
    with pytest.raises(TypeError, match=r"`function` must be callable. Received: 3"):
        replace_normalization(model, 3)
    with pytest.raises(ValueError, match=r"'fresh' must be built"):
        replace_normalization(keras.layers.BatchNormalization(name="fresh"), batch_to_group)
