"""Conversion from Keras and back: equal outputs, in training and in inference."""

import collections
import dataclasses
import functools

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm import _keras, matlab, wolfram
from keras_norm._contents import contents
from keras_norm.conversion.kinds.layer import UnmaskedLayerNormalization
from tests.conversion import models
from tests.oracle import error, normalize

OURS = {
    keras_norm.BatchNormalization,
    keras_norm.LayerNormalization,
    keras_norm.GroupNormalization,
}
KERAS = {
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
}
# The required tolerance. Measured: below 1e-6.
TOLERANCE = 2e-5


@pytest.mark.parametrize("make", models.MODELS, ids=lambda f: f.__name__)
def test_a_model_of_every_kind_goes_there_and_back(make):
    model = models.shake(make())
    x = models.batch(5, 6, 6, 4)
    before = models.weights(model)
    converted = keras_norm.from_keras(model)
    back = keras_norm.to_keras(converted)
    assert models.kinds(model) <= KERAS
    assert models.kinds(converted) <= OURS
    assert models.kinds(back) == models.kinds(model)
    assert type(converted) is type(model)
    assert models.described(converted) == models.described(back) == models.described(model)
    for training in (False, True):
        expected = models.outputs(model, x, training)
        assert error(models.outputs(converted, x, training), expected) < TOLERANCE
        assert error(models.outputs(back, x, training), expected) < TOLERANCE
    # The training call updated the statistics of all three equally; they share none.
    assert any(np.any(a != b) for a, b in zip(before, models.weights(model), strict=True))
    for a, b in zip(models.weights(model), models.weights(converted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_training_a_copy_leaves_the_model_alone():
    model = models.subclassed()
    model.compile("sgd", "mse")
    x = models.batch(4, 6, 6, 4)
    model.fit(x, x, verbose=0)
    before = models.weights(model)
    copy = keras_norm.from_keras(model)
    assert not copy.compiled
    with pytest.raises(ValueError, match=r"compile"):
        copy.fit(x, x, verbose=0)
    copy.compile("sgd", "mse")
    copy.fit(x, x, verbose=0, epochs=2)
    assert copy.steps_taken > model.steps_taken > 0
    for a, b in zip(before, models.weights(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(before, models.weights(copy), strict=True))
    model.fit(x, x, verbose=0)  # still compiled
    model.evaluate(x, x, verbose=0)
    predicted = model.predict(x, verbose=0)
    copy = keras_norm.from_keras(model)
    assert not any(isinstance(part, keras.optimizers.Optimizer) for part in contents(copy))
    assert error(copy.predict(x, verbose=0), predicted) < TOLERANCE


# Without a compiler's cache, JAX takes half a minute for one.
FAMILIES = {"MobileNet": {"alpha": 0.25}}
if keras.backend.backend() != "jax":
    FAMILIES |= {"EfficientNetB0": {}, "ConvNeXtTiny": {}}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_keras_applications(family):
    model = getattr(keras.applications, family)(
        weights=None, input_shape=(32, 32, 3), classes=3, **FAMILIES[family]
    )
    models.shake(model)
    x = models.batch(2, 32, 32, 3)
    converted = keras_norm.from_keras(model)
    assert models.described(converted) == models.described(model)
    assert models.kinds(converted) & OURS
    assert not models.kinds(converted) & KERAS
    assert error(converted.predict_on_batch(x), model.predict_on_batch(x)) < TOLERANCE


def test_files(tmp_path):
    model = models.shake(models.functional())
    model.save(tmp_path / "keras.keras")
    converted = keras_norm.from_keras(keras.saving.load_model(tmp_path / "keras.keras"))
    converted.save(tmp_path / "ours.keras")
    loaded = keras.saving.load_model(tmp_path / "ours.keras")
    x = models.batch(3, 6, 6, 4)
    expected = models.outputs(model, x)
    assert error(models.outputs(converted, x), expected) < TOLERANCE
    assert error(models.outputs(loaded, x), expected) < TOLERANCE
    assert models.described(loaded) == models.described(converted)
    part = keras.Model(converted.input, converted.get_layer("groups").output)
    assert part.get_layer("shared") is converted.get_layer("shared")


def test_flags_policies_and_multipliers_stay():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.BatchNormalization(name="frozen", trainable=False),
            keras.layers.LayerNormalization(name="half", dtype="mixed_float16"),
            keras.layers.BatchNormalization(
                name="set",
                gamma_regularizer="l2",
                beta_constraint="non_neg",
                beta_initializer=keras.initializers.RandomNormal(seed=3),
            ),
        ]
    )
    keras_norm.set_multipliers(model.get_layer("set").gamma, lr=0.5)
    model.get_layer("set").beta.trainable = False
    converted = keras_norm.from_keras(model)
    assert models.described(converted) == models.described(model)
    frozen, half, last = converted.layers
    assert not frozen.trainable
    assert half.compute_dtype == "float16"
    assert last.gamma_lr_multiplier == 0.5
    assert isinstance(last.gamma.regularizer, keras.regularizers.L2)
    assert isinstance(last.beta.constraint, keras.constraints.NonNeg)
    assert (
        last.beta_initializer.get_config() == keras.initializers.RandomNormal(seed=3).get_config()
    )


def test_masks_have_the_effect_they_had():
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
    x = keras.layers.BatchNormalization()(x)  # takes the mask
    x = keras.layers.GroupNormalization(2)(keras.layers.LayerNormalization()(x))  # pass it on
    model = models.shake(keras.Model(inputs, keras.layers.LSTM(3)(x)))
    converted = keras_norm.from_keras(model)
    assert UnmaskedLayerNormalization in models.kinds(converted)
    tokens = np.array([[1, 2, 3, 0], [4, 0, 0, 0]])
    for training in (False, True):
        expected = models.outputs(model, tokens, training)
        assert error(models.outputs(converted, tokens, training), expected) < TOLERANCE
    back = keras_norm.to_keras(converted)
    assert error(models.outputs(back, tokens), models.outputs(model, tokens)) < TOLERANCE
    taking = keras.Model(inputs, keras_norm.LayerNormalization(name="l")(x))
    with pytest.raises(ValueError, match=r"Layer 'l' .*does not support masks"):
        keras_norm.to_keras(taking)


class Marks(keras.layers.Layer):
    """Makes a mask in its own way."""

    supports_masking = True

    def call(self, x):
        return x

    def compute_mask(self, x, mask=None):
        return keras.ops.any(keras.ops.not_equal(x, 0), -1)


def test_layers_that_make_masks_their_own_way():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.marks = Marks()
            self.norm = keras.layers.GroupNormalization(1)

        def call(self, x):
            return self.norm(self.marks(x))

    x = models.batch(3, 5, 4)
    x[0, 2:] = 0
    model = Model()
    expected = models.outputs(model, x)
    assert error(models.outputs(keras_norm.from_keras(model), x), expected) < TOLERANCE


@dataclasses.dataclass(frozen=True)
class Key:
    name: str


@dataclasses.dataclass(slots=True)
class Settings:
    rate: float


Pair = collections.namedtuple("Pair", ["norm", "dense"])


def test_attributes_of_every_kind():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.pair = Pair(keras.layers.BatchNormalization(), keras.layers.Dense(2))
            self.table = {Key("a"): 1}
            self.settings = Settings(0.5)
            self.numbers = [1, 2]

        def call(self, x):
            return self.pair.dense(self.pair.norm(x)) * self.settings.rate

    x = models.batch(3, 4)
    model = Model()
    expected = models.outputs(model, x)
    converted = keras_norm.from_keras(model)
    assert isinstance(converted.pair.norm, keras_norm.BatchNormalization)
    assert converted.table[Key("a")] == 1
    converted.numbers.append(3)
    assert list(model.numbers) == [1, 2]
    assert error(models.outputs(converted, x), expected) < TOLERANCE


def test_an_optimizer_of_the_models_own_goes_on_with_the_copy():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.dense = keras.layers.BatchNormalization(), keras.layers.Dense(1)
            self.own = keras.optimizers.SGD(1.0)

        def call(self, x):
            return self.dense(self.norm(x))

        def step(self):
            variables = self.trainable_variables
            self.own.apply([keras.ops.ones(v.shape) for v in variables], variables)

    model = Model()
    model(models.batch(2, 4))
    model.step()
    converted = keras_norm.from_keras(model)
    before = models.weights(model)
    converted.step()
    np.testing.assert_allclose(converted.get_weights()[0], model.get_weights()[0] - 1)
    for a, b in zip(before, models.weights(model), strict=True):
        np.testing.assert_array_equal(a, b)


if keras.backend.backend() == "torch":

    def test_buffers_of_modules_are_copied():
        import torch

        wrapped = keras.layers.TorchModuleWrapper(torch.nn.BatchNorm1d(4))
        model = keras.Sequential([wrapped, keras.layers.BatchNormalization()])
        x = models.batch(8, 4) + 3
        model(x)
        before = wrapped.module.running_mean.clone()
        copy = keras_norm.from_keras(model)
        copy(x, training=True)
        assert torch.equal(wrapped.module.running_mean, before)
        assert not torch.equal(copy.layers[0].module.running_mean, before)


def one(layer, shape=(3, 6)):
    return keras.Sequential([keras.Input(shape), layer])


def test_what_our_layers_lack_is_refused():
    layer = keras.layers.LayerNormalization(name="it")
    layer.rms_scaling = True
    with pytest.raises(ValueError, match=r"Layer 'it'.*`rms_scaling` must be False"):
        keras_norm.from_keras(one(layer))
    with pytest.raises(ValueError, match=r"Layer 'it'.*`epsilon`"):
        keras_norm.from_keras(one(keras.layers.BatchNormalization(epsilon=0.0, name="it")))

    class Derived(keras.layers.BatchNormalization):
        pass

    with pytest.raises(ValueError, match=r"Layer 'it' .Derived. is of a class derived"):
        keras_norm.from_keras(one(Derived(name="it")))
    with pytest.raises(TypeError, match=r"`model` must be a Keras model"):
        keras_norm.from_keras("model")


@pytest.mark.parametrize(("change", "said"), models.CHANGES)
@pytest.mark.parametrize("package", [keras.layers, keras_norm])
def test_layers_that_do_more_than_their_class_are_refused(package, change, said):
    model = one(package.BatchNormalization(name="it"))
    change(model.get_layer("it"))
    convert = keras_norm.to_keras if package is keras_norm else keras_norm.from_keras
    with pytest.raises(ValueError, match=f"Layer 'it' .*{said}.*replace_normalization"):
        convert(model)


@pytest.mark.parametrize(
    ("layer", "argument"),
    [
        (keras_norm.BatchNormalization(variance_momentum=0.5, name="it"), "variance_momentum"),
        (keras_norm.BatchNormalization(gamma_lr_multiplier=2, name="it"), "gamma_lr_multiplier"),
        (keras_norm.GroupNormalization(2, beta_l2_multiplier=0, name="it"), "beta_l2_multiplier"),
        (keras_norm.LayerNormalization(name="it"), "reduction_axes"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_keras_cannot_express_is_refused(layer, argument):
    with pytest.raises(ValueError, match=rf"Layer 'it' .*`{argument}`"):
        keras_norm.to_keras(one(layer))


def test_our_spellings_become_keras_ones():
    for layer in (
        keras_norm.GroupNormalization("channel-wise", gamma_initializer="narrow-normal"),
        keras_norm.GroupNormalization("all-channels", beta_initializer=np.ones((1, 1, 6))),
        keras_norm.LayerNormalization(axis=[1, -1], gamma_initializer=lambda n: np.full(n, 2.0)),
        keras_norm.BatchNormalization(axis=1, variance_momentum=0.9),
        matlab.layerNormalizationLayer(OperationDimension="auto"),
        wolfram.BatchNormalizationLayer(Interleaving=True),
    ):
        model = models.shake(one(layer))
        back = keras_norm.to_keras(model)
        assert models.kinds(back) <= KERAS
        x = models.batch(4, 3, 6)
        for training in (False, True):
            expected = models.outputs(model, x, training)
            assert error(models.outputs(back, x, training), expected) < TOLERANCE
        # Its file loads without keras_norm.
        assert "keras_norm" not in str(back.layers[0].get_config())


def test_layers_that_nothing_can_reach_are_named():
    class Compiled(models.Block):
        def build(self, shape):
            super().build(shape)
            self.function = compiled(self.norm.call)

    model = keras.Sequential([keras.Input((4,)), Compiled(name="it")])
    with pytest.raises(ValueError, match=r"'it' contains a compiled function .*cannot be"):
        keras_norm.from_keras(model)


def compiled(function):
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    return functools.cache(function)  # what torch.compile returns is a plain function


def test_activity_regularizers_stay():
    layer = keras.layers.BatchNormalization(activity_regularizer=keras.regularizers.L2(0.1))
    converted = keras_norm.from_keras(one(layer)).layers[0]
    assert converted.activity_regularizer.l2 == pytest.approx(0.1)
    back = keras_norm.to_keras(one(converted)).layers[0]
    assert back.activity_regularizer.l2 == pytest.approx(0.1)
    layer = keras.layers.RMSNormalization(activity_regularizer=keras.regularizers.L2(0.1))
    converted = keras_norm.from_keras(one(layer)).layers[0]
    assert converted.activity_regularizer.l2 == pytest.approx(0.1)


@pytest.mark.parametrize("axis", [-1, [1, 2]])
@pytest.mark.parametrize("masked", [False, True])
def test_rms_normalization_there_and_back(axis, masked):
    inputs = keras.Input((3, 4))
    x = keras.layers.Masking()(inputs) if masked else inputs
    x = keras.layers.RMSNormalization(axis, name="norm")(x)  # Keras's layer ends the mask
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    model.get_layer("norm").scale.assign(
        np.arange(1.0, 1 + model.count_params()).reshape(model.get_layer("norm").scale.shape)
    )
    x = models.batch(2, 3, 4)
    x[0, 1:] = 0.0
    ours = keras_norm.from_keras(model)
    layer = ours.get_layer("norm")
    assert isinstance(layer, keras_norm.RMSNormalization)
    assert type(layer).__name__.startswith("Unmasked") == masked
    expected = models.outputs(model, x)
    assert error(models.outputs(ours, x), expected) < TOLERANCE
    theirs = keras_norm.to_keras(ours)
    assert type(theirs.get_layer("norm")) is keras.layers.RMSNormalization
    assert error(models.outputs(theirs, x), expected) < TOLERANCE


@pytest.mark.parametrize("layer", ["LayerNormalization", "RMSNormalization"])
def test_axes_that_keras_takes_for_the_last_ones_are_refused(layer):
    """Keras's RMS normalization multiplies along the last axes, whatever `axis` says.

    On PyTorch its layer normalization normalizes over them. Keras 3.16 has mended both on PyTorch.
    """
    theirs = getattr(keras.layers, layer)(axis=1, epsilon=1e-3, name="it")
    model = one(theirs, (4, 4))
    gamma = np.arange(1.0, 5.0)
    model.weights[0].assign(gamma)
    x = models.batch(2, 4, 4)
    centered = layer == "LayerNormalization"
    moved = np.moveaxis(x, 1, -1)
    expected = normalize(moved, [2], epsilon=1e-3, centered=centered, gamma=gamma)[0]
    expected = np.moveaxis(expected, -1, 1).ravel()
    is_right = error(models.outputs(model, x), expected) < TOLERANCE
    arguments = {"reduction_axes": 1} if centered else {}
    ours = one(getattr(keras_norm, layer)(axis=1, epsilon=1e-3, name="it", **arguments), (4, 4))
    ours.weights[0].assign(gamma)
    assert error(models.outputs(ours, x), expected) < TOLERANCE
    for convert, old in ((keras_norm.from_keras, model), (keras_norm.to_keras, ours)):
        if is_right:
            assert error(models.outputs(convert(old), x), models.outputs(old, x)) < TOLERANCE
        else:
            with pytest.raises(ValueError, match=r"Layer 'it'.*`axis` must name the last axes"):
                convert(old)


@pytest.mark.parametrize("layer", ["LayerNormalization", "RMSNormalization"])
def test_layers_for_inputs_of_several_ranks(layer):
    if layer == "LayerNormalization" and _keras.VERSION >= (3, 16):
        pytest.skip("Keras's own layer takes inputs of one rank")
    inputs = keras.Input((3, 4))
    shared = getattr(keras.layers, layer)()
    model = models.shake(keras.Model(inputs, [shared(inputs), shared(inputs[:, 0])]))
    x = models.batch(2, 3, 4)
    expected = models.outputs(model, x)
    ours = keras_norm.from_keras(model)
    for other in (ours, keras_norm.to_keras(ours)):
        assert error(models.outputs(other, x), expected) < TOLERANCE


def test_renorm_there_and_back():
    arguments = {"renorm": True, "renorm_clipping": {"rmax": 2.0}, "renorm_momentum": 0.9}
    if not hasattr(keras.layers.BatchNormalization(), "renorm"):  # before Keras 3.14
        with pytest.raises(ValueError, match=r"Layer 'it'.*`renorm` requires Keras 3.14"):
            keras_norm.to_keras(one(keras_norm.BatchNormalization(name="it", renorm=True)))
        return
    model = models.shake(one(keras.layers.BatchNormalization(name="norm", **arguments)))
    ours = keras_norm.from_keras(model)
    theirs = keras_norm.to_keras(ours)
    for other in (ours, theirs):
        layer = other.get_layer("norm")
        assert {name: getattr(layer, name) for name in arguments} == arguments
        assert len(other.weights) == len(model.weights) == 7
        for a, b in zip(models.weights(other), models.weights(model), strict=True):
            np.testing.assert_array_equal(a, b)
    x = models.batch(8, *model.input_shape[1:])
    for training in (True, False):
        expected = models.outputs(model, x, training)
        assert error(models.outputs(ours, x, training), expected) < TOLERANCE
        assert error(models.outputs(theirs, x, training), expected) < TOLERANCE


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"gamma_offset": 1.0}, "gamma_offset"),
        ({"center": True}, "center"),
        ({"scale": False}, "scale"),
        ({"reduction_axes": 1}, "reduction_axes"),
        ({"gamma_regularizer": "l2"}, "gamma_regularizer"),
    ],
)
def test_rms_normalization_that_keras_lacks_is_refused(arguments, argument):
    layer = keras_norm.RMSNormalization(name="it", **arguments)
    with pytest.raises(ValueError, match=rf"Layer 'it'.*`{argument}`"):
        keras_norm.to_keras(one(layer, (3, 4)))


def test_instance_normalization_becomes_keras_groups():
    model = models.shake(one(keras_norm.InstanceNormalization(name="norm"), (5, 4)))
    theirs = keras_norm.to_keras(model)
    assert theirs.get_layer("norm").groups in (-1, 4)
    x = models.batch(2, 5, 4)
    assert error(models.outputs(theirs, x), models.outputs(model, x)) < TOLERANCE


def test_subclasses_of_users_are_not_turned_into_their_parents():
    class Mine(keras_norm.BatchNormalization):
        pass

    Mine.__module__ = "keras_norm.mine"  # a name does not register a class
    with pytest.raises(ValueError, match=r"Layer 'it' .Mine. is of a class derived.*register"):
        keras_norm.to_keras(one(Mine(name="it")))
    assert type(keras_norm.from_keras(one(Mine(name="it"))).get_layer("it")) is Mine
    applied = keras_norm.wolfram.BatchNormalizationLayer()
    (layer,) = keras_norm.to_keras(one(applied)).layers
    assert type(layer) is keras.layers.BatchNormalization
