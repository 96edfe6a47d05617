"""Configs of Keras's own layers: values without effect are accepted, others are refused."""

import keras
import numpy as np
import pytest

import keras_norm
from tests import oracle
from tests.gradients import numpy
from tests.kinds import LAYERS, NEEDED

NAMES = {
    layer.__name__: NEEDED.get(kind, {})
    for kind, layer in LAYERS.items()
    if hasattr(keras.layers, layer.__name__)
}


def data(shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + 2).astype("float32")


def swapped(layer):
    ours = getattr(keras_norm, type(layer).__name__, type(layer))
    return ours.from_config(layer.get_config())


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_from_config(name, built):
    theirs = getattr(keras.layers, name)(name="n", **NAMES[name])
    x = data((2, 3, 4))
    if built:
        theirs(x)
    ours = getattr(keras_norm, name).from_config(theirs.get_config())
    assert (ours.name, ours.epsilon) == ("n", theirs.epsilon)
    np.testing.assert_allclose(
        numpy(ours(x, training=True)), numpy(theirs(x, training=True)), atol=5e-6
    )


@pytest.mark.parametrize(
    ("axis", "reduced"), [(-1, [2]), (1, [1]), ([1, 2], [1, 2]), ([-1], [2]), (None, [2])]
)
def test_config_of_keras_means_the_axes_of_keras(axis, reduced):
    x = data((2, 3, 4))
    config = keras.layers.LayerNormalization(axis=axis or -1).get_config()
    if axis is None:
        del config["axis"]  # Keras does, where it reads several axes from a .h5 file
    layer = keras_norm.LayerNormalization.from_config(config)
    expected = oracle.normalize(x, reduced, 1e-3)[0]
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=5e-6)
    again = keras_norm.LayerNormalization.from_config(layer.get_config())
    assert again.reduction_axes == (axis or -1)


def test_own_config_and_part_of_one_mean_the_default():
    """A config without `reduction_axes` that no class writes is arguments of the constructor."""
    layer = keras_norm.LayerNormalization
    assert layer.from_config(layer().get_config()).reduction_axes is None
    assert layer.from_config({"axis": 1, "epsilon": 0.1}).reduction_axes is None


def make_model():
    return keras.Sequential(
        [
            keras.Input((3, 4)),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.LayerNormalization(name="ln"),
            keras.layers.GroupNormalization(2, name="gn"),
        ]
    )


@pytest.mark.parametrize("way", ["clone_function", "custom_objects"])
def test_models(way, tmp_path):
    model, x = make_model(), data((8, 3, 4))
    model(x, training=True)
    if way == "clone_function":
        copy = keras.models.clone_model(model, clone_function=swapped)
        copy.set_weights(model.get_weights())
    else:
        model.save(tmp_path / "model.h5")
        classes = {name: getattr(keras_norm, name) for name in NAMES}
        copy = keras.models.load_model(tmp_path / "model.h5", custom_objects=classes)
    assert all(type(layer).__module__.startswith("keras_norm") for layer in copy.layers)
    np.testing.assert_allclose(numpy(copy(x)), numpy(model(x)), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("BatchNormalization", {"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.9}),
        ("BatchNormalization", {"fused": True}),
        ("BatchNormalization", {"fused": None, "virtual_batch_size": None, "adjustment": None}),
        ("LayerNormalization", {"rms_scaling": False}),
    ],
)
def test_neutral_values(name, arguments):
    layer = getattr(keras_norm, name)(**arguments)
    removed = {"fused", "virtual_batch_size", "adjustment", "rms_scaling"}
    assert not removed & layer.get_config().keys()


@pytest.mark.parametrize(
    ("name", "argument", "value", "remedy"),
    [
        ("BatchNormalization", "virtual_batch_size", 8, ""),
        ("BatchNormalization", "adjustment", len, ""),
        ("BatchNormalization", "fused", np.ones(3), ""),
        ("LayerNormalization", "rms_scaling", True, "RMSNormalization"),
    ],
)
def test_other_values_are_refused(name, argument, value, remedy):
    with pytest.raises(ValueError, match=rf"`{argument}` must be .*{remedy}.*Received: {argument}"):
        getattr(keras_norm, name)(**{argument: value})


@pytest.mark.parametrize("axis", [[3], (3,), [-1]])
def test_axis_in_a_list(axis):
    """Keras 2 wrote it so."""
    layer = keras_norm.BatchNormalization(axis=axis)
    assert layer.get_config()["axis"] == axis[0]
    with pytest.raises(TypeError, match=r"`axis` must be an integer. Received: axis=\[1, 2\]"):
        keras_norm.BatchNormalization(axis=[1, 2])
