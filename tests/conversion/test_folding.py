"""Folded models have the same outputs in inference, without batch normalization."""

import functools
import inspect
import re

import keras
import pytest

import keras_norm
from tests.conversion import models
from tests.gradients import numpy
from tests.oracle import error

layers = keras.layers
# The required tolerance. Measured: below 5e-7.
TOLERANCE = 1e-5
BEFORE = {
    "Dense": ((3, 4), layers.Dense(5)),
    "Conv1D groups": ((9, 4), layers.Conv1D(6, 3, groups=2)),
    "Conv2D padded": ((7, 7, 4), layers.Conv2D(6, 3, padding="same", use_bias=False)),
    "Conv3D": ((5, 5, 5, 3), layers.Conv3D(4, 2, strides=2)),
    "Conv1DTranspose": ((5, 4), layers.Conv1DTranspose(3, 3, strides=2)),
    "Conv2DTranspose": ((4, 4, 4), layers.Conv2DTranspose(3, 3, use_bias=False)),
    "Conv3DTranspose": ((3, 3, 3, 2), layers.Conv3DTranspose(3, 2)),
    "DepthwiseConv1D": ((7, 4), layers.DepthwiseConv1D(3, depth_multiplier=2)),
    "DepthwiseConv2D": ((6, 6, 3), layers.DepthwiseConv2D(3, padding="same")),
    "SeparableConv1D": ((7, 4), layers.SeparableConv1D(5, 3, use_bias=False)),
    "SeparableConv2D": ((6, 6, 3), layers.SeparableConv2D(5, 3, depth_multiplier=2)),
}
AFTER = {
    "Dense": ((3, 4), layers.Dense(5, activation="relu", use_bias=False)),
    "Conv1D groups": ((9, 4), layers.Conv1D(6, 3, groups=2)),
    "Conv2D dilated": ((7, 7, 4), layers.Conv2D(6, 3, dilation_rate=2, activation="relu")),
    "Conv2D 1x1": ((6, 6, 4), layers.Conv2D(6, 1, strides=2, padding="same")),
    "Conv3D": ((5, 5, 5, 3), layers.Conv3D(4, 2, use_bias=False)),
    "DepthwiseConv1D": ((7, 4), layers.DepthwiseConv1D(3, depth_multiplier=2, use_bias=False)),
    "DepthwiseConv2D": ((6, 6, 3), layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "SeparableConv1D": ((7, 4), layers.SeparableConv1D(5, 3)),
    "SeparableConv2D": ((6, 6, 3), layers.SeparableConv2D(5, 3, use_bias=False)),
}


def stack(shape, *parts):
    parts = [type(part).from_config(part.get_config()) for part in parts]
    return models.shake(keras.Sequential([keras.Input(shape), *parts]))


def assert_folds(model, shape, kinds):
    before = models.weights(model)
    folded = keras_norm.fold_batch_normalization(model)
    assert [type(layer).__name__ for layer in folded.layers] == kinds
    x = models.batch(3, *shape)
    assert error(models.outputs(folded, x), models.outputs(model, x)) < TOLERANCE
    for a, b in zip(before, models.weights(model), strict=True):
        assert (a == b).all()
    return folded


@pytest.mark.parametrize("name", BEFORE)
def test_into_the_layer_before(name):
    shape, linear = BEFORE[name]
    model = stack(shape, linear, keras_norm.BatchNormalization(), layers.ReLU())
    assert_folds(model, shape, [type(linear).__name__, "ReLU"])


@pytest.mark.parametrize("name", AFTER)
def test_into_the_layer_after(name):
    shape, linear = AFTER[name]
    model = stack(shape, layers.ReLU(), layers.BatchNormalization(scale=False), linear)
    assert_folds(model, shape, ["ReLU", type(linear).__name__])


def test_epsilon_counts():
    assert_folds(
        stack((4,), layers.Dense(4), keras_norm.BatchNormalization(epsilon=0.5)), (4,), ["Dense"]
    )


def test_a_layer_that_is_called_in_training_stays(capsys):
    inputs = keras.Input((4,))
    outputs = keras_norm.BatchNormalization(name="norm")(layers.Dense(4)(inputs), training=True)
    assert "called with training=True" in left(capsys, keras.Model(inputs, outputs))


def test_channels_first():
    if keras.backend.backend() == "tensorflow":
        return  # its CPU has no such convolutions
    convolution = layers.Conv2D(6, 3, data_format="channels_first")
    model = stack((4, 7, 7), convolution, keras_norm.BatchNormalization(axis=1))
    assert_folds(model, (4, 7, 7), ["Conv2D"])


def test_several_into_one(tmp_path, capsys):
    norm = keras_norm.BatchNormalization
    model = stack((4,), norm(), layers.Dense(4), norm(), norm(), layers.ReLU(), norm())
    folded = assert_folds(model, (4,), ["Dense", "ReLU", "BatchNormalization"])
    out = capsys.readouterr().out
    assert "Folded 3 of 4 normalization layers.\nLeft " in out
    folded.save(tmp_path / "folded.keras")
    x = models.batch(3, 4)
    loaded = keras.saving.load_model(tmp_path / "folded.keras")
    assert error(models.outputs(loaded, x), models.outputs(folded, x)) < 1e-6


def left(capsys, model):
    """Checks that the layer 'norm' is left; returns the printed reason."""
    keras_norm.fold_batch_normalization(model).get_layer("norm")
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("Left 'norm'"))
    return line


@pytest.mark.parametrize(
    ("shape", "parts", "why"),
    [
        ((6, 6, 4), ["norm", layers.Conv2D(3, 3, padding="same")], "pads its input with zeros"),
        ((6, 6, 4), ["norm", layers.Conv2DTranspose(3, 3)], "is a transposed convolution"),
        ((4,), [layers.Dense(4, activation="relu"), "norm"], "has the activation relu"),
        (
            (4,),
            [layers.ReLU(), "norm"],
            "is not a Dense, EinsumDense, convolution or attention layer .ReLU.; and its output is",
        ),
        ((6, 4), [layers.TimeDistributed(layers.Dense(4)), "norm"], "TimeDistributed"),
        ((6, 4), [layers.Permute((2, 1)), layers.Dense(4), "norm at 1"], "channels on axis 2, not"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_must_stay_is_said(shape, parts, why, capsys):
    norms = {
        "norm": keras_norm.BatchNormalization(name="norm"),
        "norm at 1": keras_norm.BatchNormalization(axis=1, name="norm"),
    }
    model = stack(shape, *(norms[p] if isinstance(p, str) else p for p in parts))
    assert re.search(why, left(capsys, model))
    x = models.batch(2, *shape)
    folded = keras_norm.fold_batch_normalization(model)
    assert error(models.outputs(folded, x), models.outputs(model, x)) < TOLERANCE


def test_neighbours_that_others_use_stay(capsys):
    inputs = keras.Input((4,))
    hidden = layers.Dense(4)(inputs)
    norm = keras_norm.BatchNormalization(name="norm")
    model = keras.Model(inputs, [layers.ReLU()(norm(hidden)), hidden])
    assert "has outputs that other layers read too" in left(capsys, model)
    dense = layers.Dense(4)
    norm = keras_norm.BatchNormalization(name="norm")
    model = keras.Model(inputs, layers.ReLU()(norm(dense(dense(inputs)))))
    assert "is shared by several calls" in left(capsys, model)
    norm = keras_norm.BatchNormalization(name="norm")
    model = keras.Model(inputs, norm(layers.Dense(4)(norm(layers.Dense(4)(inputs)))))
    assert "it is shared" in left(capsys, model)
    norm = keras_norm.BatchNormalization(name="norm")
    model = keras.Model(inputs, norm(layers.Dense(4)(inputs), training=True))
    assert "training=True" in left(capsys, model)
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), keras_norm.BatchNormalization()])
    keras_norm.fold_batch_normalization(keras.Model(inputs, inner(inputs, training=True)))
    assert "it is called with training=True" in capsys.readouterr().out


class Transposed(layers.Layer):
    """Shares the kernel of a Dense layer: half of a tied autoencoder."""

    def __init__(self, dense):
        super().__init__()
        self.dense = dense

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.dense.kernel))


class Outside(keras.Model):
    """Calls a layer, and a graph that has it, too."""

    def __init__(self, graph, layer):
        super().__init__()
        self.graph = graph
        self.layer = layer

    def call(self, x):
        return self.graph(x), self.layer(x)


@pytest.mark.parametrize("which", ["layer", "function", "model", "norm"])
def test_layers_that_are_used_outside_of_graphs_stay(which, capsys):
    inputs = keras.Input((4,))
    dense, norm = layers.Dense(4, name="dense"), keras_norm.BatchNormalization(name="norm")
    outputs = layers.ReLU()(norm(dense(inputs)))
    if which == "layer":
        outputs = Transposed(dense)(outputs)
    elif which == "function":
        outputs = layers.Lambda(lambda x: x @ dense.kernel)(outputs)
    model = keras.Model(inputs, outputs)
    if which in ("model", "norm"):
        model = Outside(model, dense if which == "model" else norm)
        model(keras.ops.ones((1, 4)))
    x = models.batch(3, 4)
    folded = keras_norm.fold_batch_normalization(models.shake(model))
    assert re.search("Left 'norm': .*(is used by|uses it too)", capsys.readouterr().out)
    for found, expected in zip(
        keras.tree.flatten(folded(x)), keras.tree.flatten(model(x)), strict=True
    ):
        assert error(numpy(found), numpy(expected)) < TOLERANCE


def test_layers_of_the_same_name_are_all_counted(capsys):
    parts = [
        keras.Sequential([keras.Input((4,)), keras_norm.BatchNormalization(name="norm")])
        for _ in range(2)
    ]
    keras_norm.fold_batch_normalization(keras.Sequential([keras.Input((4,)), *parts]))
    assert "Folded 0 of 2" in capsys.readouterr().out


def test_a_layer_of_another_precision_stays(capsys):
    dense = layers.Dense(4, dtype="mixed_bfloat16")
    norm = keras_norm.BatchNormalization(dtype="float32", name="norm")
    assert "computes in bfloat16" in left(
        capsys, keras.Sequential([keras.Input((4,)), dense, norm])
    )


def test_models_in_models(capsys):
    model = models.shake(models.nested())
    folded = keras_norm.fold_batch_normalization(model)
    x = models.batch(3, 6, 6, 4)
    assert error(models.outputs(folded, x), models.outputs(model, x)) < TOLERANCE
    capsys.readouterr()
    model = models.shake(models.subclassed())
    folded = keras_norm.fold_batch_normalization(model)
    assert "not in the graph of a built model" in capsys.readouterr().out
    assert error(models.outputs(folded, x), models.outputs(model, x)) < TOLERANCE
    with pytest.raises(TypeError, match=r"`model` must be a Keras model"):
        keras_norm.fold_batch_normalization(3)


def test_a_family_of_keras_applications():
    model = keras.applications.MobileNet(
        weights=None, input_shape=(32, 32, 3), classes=3, alpha=0.25
    )
    folded = keras_norm.fold_batch_normalization(models.shake(model))
    assert not models.kinds(folded)
    x = models.batch(2, 32, 32, 3)
    assert error(folded.predict_on_batch(x), model.predict_on_batch(x)) < TOLERANCE


PARAMETERS = {
    "layer": lambda: keras_norm.LayerNormalization(reduction_axes=-1, name="norm"),
    "layer of Keras": lambda: layers.LayerNormalization(name="norm"),
    "layer, first axis": lambda: keras_norm.LayerNormalization(1, reduction_axes=-1, name="norm"),
    "group": lambda: keras_norm.GroupNormalization(2, name="norm"),
    "group of Keras": lambda: layers.GroupNormalization(2, name="norm"),
    "instance": lambda: keras_norm.InstanceNormalization(center=False, name="norm"),
    "rms": lambda: keras_norm.RMSNormalization(name="norm"),
    "rms with offset": lambda: keras_norm.RMSNormalization(gamma_offset=1.0, name="norm"),
    "rms with beta": lambda: keras_norm.RMSNormalization(center=True, name="norm"),
    "rms of Keras": lambda: layers.RMSNormalization(name="norm"),
}


def heads(make):
    """Query, key and value read one normalization, between two layers."""
    inputs = keras.Input((5, 4))
    x = make()(layers.Dense(4)(inputs))
    q, k, v = layers.Dense(6)(x), layers.Conv1D(6, 1)(x), layers.Dense(6, use_bias=False)(x)
    return models.shake(keras.Model(inputs, layers.Attention()([q, k, v])))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_into_all_heads_that_follow(name, capsys):
    model = heads(PARAMETERS[name])
    folded = keras_norm.fold_normalization(model)
    out = capsys.readouterr().out
    x = models.batch(3, 5, 4)
    assert error(models.outputs(folded, x), models.outputs(model, x)) < TOLERANCE
    norm = folded.get_layer("norm")
    assert type(norm) is type(model.get_layer("norm"))
    if name in ("rms of Keras", "layer, first axis"):
        why = {"rms of Keras": "always has a scale"}.get(name, "on axis 2, not 1")
        assert "Folded 0 of 1 normalization layers.\nLeft 'norm': " in out
        assert why in out
        return
    assert out == "Folded 1 of 1 normalization layers.\n"
    assert not norm.weights
    # A layer without a bias gets one only if there is a beta to take up.
    assert len(folded.weights) == (7 if name in ("rms", "rms with offset", "instance") else 8)
    assert keras.Model.from_config(folded.get_config()).get_layer("norm").count_params() == 0
    keras_norm.fold_normalization(folded)
    assert capsys.readouterr().out == "Folded 0 of 0 normalization layers.\n"


def test_batch_normalization_goes_into_all_heads(capsys):
    inputs = keras.Input((4,))
    x = keras_norm.BatchNormalization()(layers.ReLU()(inputs))
    model = models.shake(keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(3)(x)]))
    folded = keras_norm.fold_normalization(model)
    assert "Folded 1 of 1" in capsys.readouterr().out
    x = models.batch(3, 4)
    assert error(models.outputs(folded, x), models.outputs(model, x)) < TOLERANCE


EINSUM = {
    "features": ((4,), layers.EinsumDense("ab,bc->ac", 6, bias_axes="c")),
    "heads": ((5, 4), layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")),
    "heads first": ((5, 4), layers.EinsumDense("btc,nch->bnth", (2, None, 3))),
    "part of the bias": ((5, 4), layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="e")),
    "elided": ((3, 5, 4), layers.EinsumDense("...b,bc->...c", 6, bias_axes="c")),
    "two axes at once": ((3, 4), layers.EinsumDense("abc,bcd->ad", 6, activation="relu")),
    "each position": ((3, 4), layers.EinsumDense("abc,bcd->abd", (3, 6))),
    "each channel": ((3, 4), layers.EinsumDense("abc,cd->abcd", (3, 4, 2), bias_axes="d")),
}


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("name", EINSUM)
def test_parameters_into_einsum_dense(name, norm, capsys):
    shape, einsum = EINSUM[name]
    norm = PARAMETERS[norm]()
    model = stack(shape, norm, einsum)
    folded = assert_folds(model, shape, [type(norm).__name__, "EinsumDense"])
    assert capsys.readouterr().out == "Folded 1 of 1 normalization layers.\n"
    assert folded.layers[0].count_params() == 0
    again = keras.Sequential.from_config(folded.get_config())
    assert [v.shape for v in again.weights] == [v.shape for v in folded.weights]


@pytest.mark.parametrize("name", EINSUM)
def test_batch_normalization_into_einsum_dense(name):
    shape, einsum = EINSUM[name]
    model = stack(shape, einsum, keras_norm.BatchNormalization(), layers.ReLU())
    stays = name == "two axes at once"  # which has an activation
    assert_folds(model, shape, ["EinsumDense", *["BatchNormalization"] * stays, "ReLU"])
    model = stack(shape, layers.ReLU(), keras_norm.BatchNormalization(), einsum)
    assert_folds(model, shape, ["ReLU", "EinsumDense"])


def test_einsum_dense_over_an_axis_in_front():
    einsum = layers.EinsumDense("ab...,bc->ac...", 6, bias_axes="c")
    model = stack((4, 3), keras_norm.LayerNormalization(1, reduction_axes=1), einsum)
    assert_folds(model, (4, 3), ["LayerNormalization", "EinsumDense"])
    model = stack((4, 3), einsum, keras_norm.BatchNormalization(1), layers.ReLU())
    assert_folds(model, (4, 3), ["EinsumDense", "ReLU"])


@pytest.mark.parametrize(
    ("shape", "einsum", "why"),
    [
        ((3, 4), layers.EinsumDense("abc,bd->acd", (4, 2)), "no axis 2 of its inputs in its kern"),
        ((3, 4), layers.EinsumDense("abc,cd->ad", 2), "sums over an axis of its inputs that its"),
        ((3, 4), layers.EinsumDense("abc,c->ab", 3), "has no axis for a bias"),
    ],
)
def test_einsum_dense_that_cannot_take_parameters_up(shape, einsum, why, capsys):
    model = stack(shape, keras_norm.LayerNormalization(name="norm"), einsum)
    assert why in left(capsys, model)


def attention(norm, cls, which, **arguments):
    """Attention between two layers, whose arguments are normalized or not."""
    inputs = keras.Input((5, 4))
    other = layers.Dense(4)(inputs)
    layer = cls(**arguments, name="attention")
    x = norm(other)
    outputs = {
        "all": lambda: layer(x, x),
        "query": lambda: layer(x, other),
        "value": lambda: layer(other, x),
        "key": lambda: layer(other, value=other, key=x, use_causal_mask=True),
        "query and key": lambda: layer(x, other, x),
    }[which]()
    return models.shake(keras.Model(inputs, outputs))


ATTENTION = {
    "multi-head": (layers.MultiHeadAttention, {"num_heads": 2, "key_dim": 3}),
    "without bias": (
        layers.MultiHeadAttention,
        {"num_heads": 2, "key_dim": 3, "use_bias": False},
    ),
    "grouped query": (
        layers.GroupQueryAttention,
        {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2, "use_bias": False},
    ),
}


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("which", ["all", "query", "value", "key", "query and key"])
@pytest.mark.parametrize("name", ATTENTION)
def test_parameters_into_projections_of_attention(name, which, norm, capsys):
    cls, arguments = ATTENTION[name]
    model = attention(PARAMETERS[norm](), cls, which, **arguments)
    folded = keras_norm.fold_normalization(model)
    assert capsys.readouterr().out == "Folded 1 of 1 normalization layers.\n"
    x = models.batch(3, 5, 4)
    assert error(models.outputs(folded, x), models.outputs(model, x)) < TOLERANCE
    assert folded.get_layer("norm").count_params() == 0
    again = keras.Model.from_config(folded.get_config())
    assert [v.shape for v in again.weights] == [v.shape for v in folded.weights]


def test_gate_of_attention(capsys):
    if "use_gate" not in inspect.signature(layers.MultiHeadAttention).parameters:
        return
    gated = {"num_heads": 2, "key_dim": 3, "use_gate": True, "use_bias": False}
    norm = keras_norm.LayerNormalization(reduction_axes=-1)
    model = attention(norm, layers.MultiHeadAttention, "query", **gated)
    folded = keras_norm.fold_normalization(model)
    assert "Folded 1 of 1" in capsys.readouterr().out
    x = models.batch(3, 5, 4)
    assert error(models.outputs(folded, x), models.outputs(model, x)) < TOLERANCE


def test_attention_that_cannot_take_parameters_up(capsys):
    class Mine(layers.MultiHeadAttention):
        pass

    norm = keras_norm.LayerNormalization(name="norm")
    model = attention(norm, Mine, "all", num_heads=2, key_dim=3)
    assert "is not a Dense, EinsumDense, convolution or attention layer (Mine)" in left(
        capsys, model
    )
    inputs, scores = keras.Input((5, 4)), keras.Input((5, 5))
    norm = keras_norm.LayerNormalization(name="norm")
    outputs = layers.MultiHeadAttention(2, 3)(inputs, inputs, attention_mask=norm(scores))
    model = keras.Model([inputs, scores], outputs)
    assert "reads it as argument `attention_mask`" in left(capsys, model)


def test_several_heads_on_one_normalization(capsys):
    """Query, key and value as three `EinsumDense` layers, as in KerasHub's models."""
    inputs = keras.Input((5, 4))
    x = keras_norm.RMSNormalization(gamma_offset=1.0)(inputs)
    heads = [layers.EinsumDense("abc,cde->abde", (None, 2, 3))(x) for _ in range(3)]
    model = models.shake(keras.Model(inputs, heads))
    folded = keras_norm.fold_normalization(model)
    assert capsys.readouterr().out == "Folded 1 of 1 normalization layers.\n"
    assert len(folded.weights) == 3
    x = models.batch(3, 5, 4)
    for found, expected in zip(folded(x), model(x), strict=True):
        assert error(numpy(found), numpy(expected)) < TOLERANCE


def test_parameters_stay_where_something_else_reads_them(capsys):
    inputs = keras.Input((4,))
    norm = keras_norm.RMSNormalization(name="norm")
    x = norm(inputs)
    assert "its output is an output" in left(capsys, keras.Model(inputs, [layers.Dense(2)(x), x]))
    norm = keras_norm.RMSNormalization(name="norm")
    x = norm(inputs)
    model = keras.Model(inputs, layers.Add()([layers.Dense(4)(x), x]))
    assert "is not a Dense, EinsumDense, convolution or attention layer (Add)" in left(
        capsys, model
    )
    norm = keras_norm.LayerNormalization([1, 2], name="norm")
    model = keras.Sequential([keras.Input((3, 4)), norm, layers.Dense(2)])
    assert "its parameters span several axes (axis=[1, 2])" in left(capsys, model)


class Doubled(keras_norm.BatchNormalization):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


class Named(keras_norm.BatchNormalization):
    """A derived class that runs what its parent runs."""


def test_derived_classes_count_as_what_they_run(capsys):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), Doubled(name="norm")])
    assert "it (Doubled) overrides `call`" in left(capsys, model)
    applied = keras_norm.wolfram.BatchNormalizationLayer()
    for norm in (Named(), applied):
        keras_norm.fold_normalization(keras.Sequential([keras.Input((4,)), layers.Dense(3), norm]))
        assert "Folded 1 of 1" in capsys.readouterr().out


class Preset(keras_norm.RMSNormalization):
    """A derived class with its own arguments."""

    def __init__(self, **arguments):
        super().__init__(gamma_offset=1.0, gamma_initializer="zeros", **arguments)


class Doubling(keras_norm.RMSNormalization):
    """A derived class that needs gamma."""

    def build(self, input_shape):
        super().build(input_shape)
        self.gamma.assign(2 * self.gamma)


class Same(keras_norm.RMSNormalization):
    """A derived class that has nothing of its own."""


@pytest.mark.parametrize(("cls", "name"), [(Preset, "__init__"), (Doubling, "build")])
def test_derived_classes_that_may_need_parameters_keep_them(cls, name, capsys):
    model = keras.Sequential([keras.Input((4,)), cls(name="norm"), layers.Dense(3)])
    assert f"it ({cls.__name__}) overrides `{name}`, which may need gamma" in left(capsys, model)
    model = keras.Sequential([keras.Input((4,)), Same(name="norm"), layers.Dense(3)])
    folded = keras_norm.fold_normalization(model)
    assert type(folded.get_layer("norm")) is Same
    assert not folded.get_layer("norm").weights


@pytest.mark.parametrize(("change", "said"), models.CHANGES)
@pytest.mark.parametrize("changed", ["dense", "norm"])
def test_layers_that_do_more_than_their_class_stay(changed, change, said, capsys):
    parts = [layers.Dense(3, name="dense"), keras_norm.BatchNormalization(name="norm")]
    model = keras.Sequential([keras.Input((4,)), *parts])
    change(model.get_layer(changed))
    who = {"dense": "'dense',", "norm": "it (BatchNormalization)"}[changed]
    assert f"{who} {said}" in left(capsys, model)


@pytest.mark.parametrize("act", ["relu", "prelu", "partial"])
def test_activations_need_no_name_and_no_config(act, capsys):
    activation = {
        "relu": layers.ReLU,
        "prelu": layers.PReLU,
        "partial": lambda: functools.partial(keras.activations.relu, negative_slope=0.1),
    }[act]
    dense = layers.Dense(3, activation=activation(), name="dense")
    norms = [keras_norm.BatchNormalization(name=name) for name in ("first", "norm")]
    model = models.shake(keras.Sequential([keras.Input((4,)), norms[0], dense, norms[1]]))
    folded = keras_norm.fold_normalization(model)
    named = {"relu": "ReLU", "prelu": "PReLU"}.get(act, act)
    out = capsys.readouterr().out
    assert f"'dense', has the activation {named}; and its output is an output" in out
    assert "Folded 1 of 2" in out
    x = models.batch(5, 4)
    assert error(models.outputs(folded, x), models.outputs(model, x)) < TOLERANCE
