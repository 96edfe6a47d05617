"""Configs, files, copies: what Keras promises of a layer."""

import json
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm import (
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    RMSNormalization,
)
from tests.gradients import numpy
from tests.kinds import LAYERS

SHARED = {
    "axis": 1,
    "epsilon": 1e-3,
    "center": True,
    "scale": True,
    "beta_initializer": "ones",
    "gamma_initializer": [1.0, 2.0, 3.0, 4.0],
    "beta_regularizer": "l2",
    "gamma_regularizer": keras.regularizers.L1(0.1),
    "beta_constraint": "non_neg",
    "gamma_constraint": keras.constraints.MaxNorm(3.0),
    "beta_lr_multiplier": 0.5,
    "gamma_lr_multiplier": 2.0,
    "beta_l2_multiplier": 0.0,
    "gamma_l2_multiplier": 3.0,
    "num_channels": 4,
    "name": "norm",
    "dtype": "mixed_bfloat16",
}
OWN = {
    "batch": {
        "momentum": 0.8,
        "variance_momentum": 0.7,
        "moving_mean_initializer": "narrow-normal",
        "moving_variance_initializer": [1, 2, 3, 4],
        "renorm": True,
        "renorm_clipping": {"rmax": 3.0, "dmax": 5.0},
        "renorm_momentum": 0.95,
    },
    "layer": {"reduction_axes": [1, 2]},
    "group": {"groups": "channel-wise"},
    "instance": {},
    "rms": {"reduction_axes": [1, 2], "gamma_offset": 1.0},
}
FULL = {layer: SHARED | OWN[kind] for kind, layer in LAYERS.items()}


@pytest.mark.parametrize("full", [False, True], ids=["defaults", "every argument"])
@pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
@pytest.mark.parametrize("layer", FULL)
def test_config(layer, built, full):
    if full:
        made = layer(**FULL[layer])
    else:
        made = layer(**({"groups": 2} if layer is GroupNormalization else {}))
    if built:
        made.build((None, 4, 5) if full else (None, 5, 4))
    config = made.get_config()
    assert json.loads(json.dumps(config)) == config
    assert set(FULL[layer]) | {"trainable"} <= set(config) | {"synchronized"}
    again = layer.from_config(config)
    assert again.get_config() == config
    if full:
        for name in ("axis", "epsilon", "gamma_lr_multiplier", "beta_l2_multiplier"):
            assert getattr(again, name) == FULL[layer][name]


@pytest.mark.parametrize("layer", FULL)
def test_registered_under_the_package(layer):
    assert keras.saving.get_registered_name(layer) == f"keras_norm>{layer.__name__}"
    serialized = keras.saving.serialize_keras_object(layer(num_channels=32))
    assert isinstance(keras.saving.deserialize_keras_object(serialized), layer)


@pytest.mark.parametrize("layer", FULL)
def test_number_of_channels(layer):
    made = layer(num_channels="auto")
    assert made.num_channels is None
    made.build((None, 3, 32))
    assert made.num_channels == 32
    assert made.get_config()["num_channels"] is None
    assert layer(num_channels=32).num_channels == 32


@pytest.mark.parametrize("layer", FULL)
def test_multipliers_are_the_variables_own(layer):
    made = layer(num_channels=32, center=True, gamma_lr_multiplier=2.0)
    made.beta_lr_multiplier = 0.25
    assert made.gamma_lr_multiplier == 2.0
    made.build((None, 32))
    assert made.gamma.lr_multiplier == 2.0
    assert made.beta.lr_multiplier == 0.25
    keras_norm.set_multipliers(made.gamma, lr=0.0, l2=5)
    assert (made.gamma_lr_multiplier, made.gamma_l2_multiplier) == (0.0, 5.0)
    keras_norm.set_multipliers(made, l2=0.5)
    made.gamma_lr_multiplier = 7
    config = made.get_config()
    assert config["gamma_lr_multiplier"] == made.gamma.lr_multiplier == 7.0
    assert config["gamma_l2_multiplier"] == config["beta_l2_multiplier"] == 0.5
    again = layer.from_config(config)
    again.build((None, 32))
    assert again.gamma.l2_multiplier == 0.5
    with pytest.raises(ValueError, match="gamma_lr_multiplier"):
        made.gamma_lr_multiplier = -1


def make_model():
    inputs = keras.Input((6, 4))
    x = BatchNormalization(name="bn", gamma_initializer="narrow-normal")(inputs)
    x = keras.layers.Dense(4, name="mix")(x)
    x = LayerNormalization(name="ln", reduction_axes=-1, beta_initializer=[1, 2, 3, 4])(x)
    x = GroupNormalization(2, name="gn")(x)
    x = LayerNormalization(axis=[1, 2], name="ln2")(x)
    # Ioffe's bounds at the start of training: they disable the corrections.
    bounds = {"rmin": 1.0, "rmax": 1.0, "dmax": 0.0}
    x = BatchNormalization(name="bn2", renorm=True, renorm_clipping=bounds)(x)
    x = RMSNormalization(name="rms", gamma_offset=1.0, gamma_initializer="zeros")(x)
    x = InstanceNormalization(name="in")(x)
    return keras.Model(inputs, keras.layers.Dense(1, name="head")(keras.layers.Flatten()(x)))


def data(samples=16):
    generator = np.random.default_rng(0)
    x = (generator.standard_normal((samples, 6, 4)) + 5).astype("float32")
    return x, x[:, :1, 0]


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    model = make_model()
    model.compile("adam", "mse")
    model.fit(*data(), batch_size=4, epochs=2, verbose=0)
    return model


def test_file(trained, tmp_path):
    x, y = data()
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), trained.predict(x, verbose=0))
    before = numpy(loaded.get_layer("bn").moving_mean)
    loaded.fit(x, y, batch_size=4, verbose=0)
    assert not np.array_equal(numpy(loaded.get_layer("bn").moving_mean), before)


def test_weights_file(trained, tmp_path):
    x, _ = data()
    trained.save_weights(tmp_path / "model.weights.h5")
    other = make_model()
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(other(x)), numpy(trained(x)))


def test_json_clone_and_pickle(trained):
    x, _ = data()
    copies = [
        keras.models.model_from_json(trained.to_json()),
        keras.models.clone_model(trained),
    ]
    for copy in copies:
        copy.set_weights(trained.get_weights())
    copies.append(pickle.loads(pickle.dumps(trained)))
    for copy in copies:
        np.testing.assert_allclose(numpy(copy(x)), numpy(trained(x)), rtol=1e-6)
        for name in ("bn", "ln", "gn", "ln2", "bn2", "rms", "in"):
            assert copy.get_layer(name).get_config() == trained.get_layer(name).get_config()


FILES = Path(__file__).parent.parent / "data"


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_files_from_every_backend(backend):
    """Files written by `tests/data/write.py` on each backend, with what they predicted there."""
    expected = np.load(FILES / f"{backend}.npz")
    # Without the optimizer: Keras itself cannot load one that was saved on PyTorch elsewhere.
    model = keras.saving.load_model(FILES / f"{backend}.keras", compile=False)
    # Seven normalizations one after the other amplify float32's rounding.
    np.testing.assert_allclose(
        model.predict(expected["x"], verbose=0), expected["y"], rtol=2e-5, atol=2e-5
    )
    model.compile("adam", "mse")
    loss = model.fit(expected["x"], expected["x"][:, :1, 0], epochs=3, verbose=0).history["loss"]
    assert loss[-1] < loss[0]


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_unsafe_file_is_refused(tmp_path):
    """Keras's own guard holds: a lambda smuggled in as an initializer is not run."""
    layer = BatchNormalization()
    config = layer.get_config()
    config["gamma_initializer"] = keras.saving.serialize_keras_object(lambda shape: 1 / 0)
    with pytest.raises((ValueError, TypeError), match=r"safe_mode|lambda"):
        keras.saving.deserialize_keras_object(
            {
                "module": "keras_norm.layers.batch_normalization",
                "class_name": "BatchNormalization",
                "config": config,
                "registered_name": "keras_norm>BatchNormalization",
            }
        )
