"""MATLAB's layer functions against the formulas of its documents, worked by hand."""

import keras
import numpy as np
import pytest

from keras_norm import matlab
from keras_norm.conversion.kinds import KINDS
from tests.kinds import LAYERS

BATCH = np.array([[1.0, 10.0], [3.0, 30.0]], "float32")  # means 2, 20; variances 1, 100
# A few roundings of float32 on numbers of size 1.
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}

EVERY_PROPERTY = {
    "batch": {
        "TrainedMean": [1.0, 2.0],
        "TrainedVariance": [4.0, 9.0],
        "MeanDecay": 0.25,
        "VarianceDecay": 0.5,
    },
    "layer": {"OperationDimension": "channel-only"},
    "group": {},
    "instance": {},
}
OWN_DEFAULTS = {
    "batch": {"TrainedMean": [], "TrainedVariance": [], "MeanDecay": 0.1, "VarianceDecay": 0.1},
    "layer": {"OperationDimension": "batch-excluded"},
    "group": {"NumGroups": "all-channels"},
    "instance": {},
}
OF_MATLAB = [kind.layer for kind in KINDS if kind.matlab]
FUNCTIONS = {
    kind: getattr(matlab, f"{kind}NormalizationLayer")
    for kind, layer in LAYERS.items()
    if layer in OF_MATLAB
}
COMMON = {
    "Epsilon": 0.5,
    "NumChannels": 2,
    "ScaleInitializer": "ones",
    "OffsetInitializer": "zeros",
    "Scale": [2.0, 3.0],
    "Offset": [1.0, -1.0],
    "ScaleLearnRateFactor": 2.0,
    "OffsetLearnRateFactor": 3.0,
    "ScaleL2Factor": 4.0,
    "OffsetL2Factor": 5.0,
    "Name": "N1",
}
READ_ONLY = {"NumInputs": 1, "InputNames": ["in"], "NumOutputs": 1, "OutputNames": ["out"]}


def make(kind, *pairs, **properties):
    first = ["all-channels"] if kind == "group" else []
    return FUNCTIONS[kind](*first, *pairs, **properties)


def as_lists(properties):
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in properties.items()}


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("built", [False, True])
def test_every_property_is_read_as_it_was_given(kind, built):
    given = {**EVERY_PROPERTY[kind], **COMMON}
    by_keyword = make(kind, **given)
    by_pairs = make(kind, *[item for pair in given.items() for item in pair])
    if built:
        by_keyword.build((None, 2))
        by_pairs.build((None, 2))
    expected = {**given, **READ_ONLY}
    if kind == "group":
        expected["NumGroups"] = "all-channels"
    assert as_lists(matlab.properties(by_keyword)) == expected
    assert as_lists(matlab.properties(by_pairs)) == expected


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_defaults_are_matlabs(kind):
    expected = {
        "Epsilon": 1e-5,
        "NumChannels": "auto",
        "ScaleInitializer": "ones",
        "OffsetInitializer": "zeros",
        "Scale": [],
        "Offset": [],
        "ScaleLearnRateFactor": 1.0,
        "OffsetLearnRateFactor": 1.0,
        "ScaleL2Factor": 1.0,
        "OffsetL2Factor": 1.0,
        "Name": "N1",
        **READ_ONLY,
        **OWN_DEFAULTS[kind],
    }
    assert matlab.properties(make(kind, Name="N1")) == expected


def test_batch_normalization_trains_and_predicts_by_the_formulas():
    layer = matlab.batchNormalizationLayer(**EVERY_PROPERTY["batch"], **COMMON)
    # (x - mean) / sqrt(variance + 0.5), times 2 or 3, plus 1 or -1.
    trained = [[-1 / 1.5**0.5 * 2 + 1, -10 / 100.5**0.5 * 3 - 1]]
    trained += [[1 / 1.5**0.5 * 2 + 1, 10 / 100.5**0.5 * 3 - 1]]
    np.testing.assert_allclose(to_numpy(layer(BATCH, training=True)), trained, **TOLERANCE)
    found = matlab.properties(layer)
    # 0.25 of the batch's mean and 0.75 of 1 and 2; half of the batch's variance and of 4 and 9.
    np.testing.assert_allclose(found["TrainedMean"], [1.25, 6.5], **TOLERANCE)
    np.testing.assert_allclose(found["TrainedVariance"], [2.5, 54.5], **TOLERANCE)
    predicted = (BATCH - [1.25, 6.5]) / np.sqrt([3.0, 55.0]) * [2, 3] + [1, -1]
    np.testing.assert_allclose(to_numpy(layer(BATCH)), predicted, **TOLERANCE)


def test_a_decay_that_is_not_given_stays_at_a_tenth():
    layer = matlab.batchNormalizationLayer(MeanDecay=0.5)
    layer(BATCH, training=True)
    np.testing.assert_allclose(to_numpy(layer.moving_mean), [1.0, 10.0], **TOLERANCE)
    np.testing.assert_allclose(to_numpy(layer.moving_variance), [1.0, 10.9], **TOLERANCE)


@pytest.mark.parametrize(
    ("dimension", "shape", "axes"),
    [
        (None, (2, 4, 3), (1, 2)),
        (None, (2, 4, 5, 3), (1, 2, 3)),
        ("auto", (2, 3), (1,)),
        ("auto", (2, 4, 3), (2,)),
        ("auto", (2, 4, 5, 3), (1, 2, 3)),
        ("channel-only", (2, 4, 5, 3), (3,)),
        ("spatial-channel", (2, 4, 3), (1, 2)),
        ("batch-excluded", (2, 4, 3), (1, 2)),
    ],
)
def test_operation_dimension(dimension, shape, axes):
    x = np.random.default_rng(0).normal(3, 2, shape).astype("float32")
    given = {} if dimension is None else {"OperationDimension": dimension}
    layer = matlab.layerNormalizationLayer(Epsilon=0.1, **given)
    centered = x - x.mean(axes, keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(axes, keepdims=True) + 0.1)
    np.testing.assert_allclose(to_numpy(layer(x)), expected, rtol=1e-5, atol=1e-6)
    again = type(layer).from_config(layer.get_config())
    assert matlab.properties(again)["OperationDimension"] == (dimension or "batch-excluded")
    np.testing.assert_allclose(to_numpy(again(x)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (2, [-1, 1, -1, 1]),
        ("channel-wise", [0, 0, 0, 0]),
        # 1, 3, 5, 7: mean 4, variance 5
        ("all-channels", np.array([-3, -1, 1, 3]) / 5**0.5),
    ],
)
def test_number_of_groups(groups, expected):
    layer = matlab.groupNormalizationLayer(groups, "Epsilon", 1e-12)
    found = to_numpy(layer(np.array([[1, 3, 5, 7]], "float32")))[0]
    np.testing.assert_allclose(found, expected, **TOLERANCE)
    assert matlab.properties(layer)["NumGroups"] == groups


def test_initializers():
    layer = matlab.batchNormalizationLayer(
        ScaleInitializer="narrow-normal", OffsetInitializer=lambda size: np.full(size, 7.0)
    )
    layer.build((None, 4000))
    scale = to_numpy(layer.gamma)
    # The error of a standard deviation from 4000 draws is 1.1%.
    assert 0.009 < scale.std() < 0.011
    assert abs(scale.mean()) < 0.001
    assert np.all(to_numpy(layer.beta) == 7)
    assert matlab.properties(layer)["ScaleInitializer"] == "narrow-normal"
    assert matlab.properties(layer)["OffsetInitializer"](3).tolist() == [7, 7, 7]


@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1), (1, 1, 2), (1, 1, 1, 2)])
def test_values_in_matlabs_sizes(shape):
    values = np.array([5, 6]).reshape(shape)
    layer = matlab.batchNormalizationLayer(
        Scale=values, Offset=values.tolist(), TrainedMean=values, TrainedVariance=values
    )
    layer.build((None, 3, 3, 2))
    for variable in layer.weights:
        assert to_numpy(variable).tolist() == [5, 6]


def test_empty_values_leave_the_defaults_and_names_know_no_case():
    layer = matlab.batchNormalizationLayer("name", "BN1", "Scale", [], "TrainedMean", np.array([]))
    layer.build((None, 2))
    assert layer.name == "BN1"
    assert to_numpy(layer.gamma).tolist() == [1, 1]
    assert matlab.batchNormalizationLayer(Name="").name == "batch_normalization"


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_files_keep_everything(kind, tmp_path):
    model = keras.Sequential(
        [keras.Input((2,)), make(kind, **{**EVERY_PROPERTY[kind], **COMMON, "Scale": []})]
    )
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    before, after = (matlab.properties(m.layers[0]) for m in (model, again))
    assert as_lists(before) == as_lists(after)
    np.testing.assert_array_equal(to_numpy(model(BATCH)), to_numpy(again(BATCH)))


@pytest.mark.parametrize(
    ("kind", "pairs", "properties", "message"),
    [
        ("batch", ("Epsilon",), {}, "odd number of arguments"),
        ("batch", (1, 2), {}, "1 where a name should be"),
        ("batch", (), {"Epsilom": 1}, "no property 'Epsilom'. Did you mean 'Epsilon'"),
        ("layer", (), {"operationdimensions": 1}, "Did you mean 'OperationDimension'"),
        ("group", (), {"NumGroups": 4}, r"its first argument: groupNormalizationLayer\(4\)"),
        ("batch", (), {"Epsilon": 10**400}, "`Epsilon` must be a finite number > 0"),
        ("batch", (), {"Epsilon": 1e-50}, "`Epsilon` must be at least"),
        ("batch", (), {"Scale": [10**400]}, "`Scale` must contain one number for each channel"),
        ("batch", (), {"NumChannels": 2.5}, "`NumChannels` must be a positive integer or 'auto'"),
        ("batch", (), {"MeanDecay": 1e-20}, "`MeanDecay` must be 0 or at least"),
        ("group", (), {"MeanDecay": 0.1}, "groupNormalizationLayer has no property 'MeanDecay'"),
        ("batch", ("Name", "a"), {"Name": "b"}, "'Name' twice"),
        ("batch", (), {"NumInputs": 1}, "'NumInputs' of batchNormalizationLayer is read-only"),
        ("batch", (), {"Epsilon": 0}, "`Epsilon` must be a finite number > 0"),
        ("batch", (), {"Epsilon": "x"}, "`Epsilon` must be a finite number > 0"),
        ("batch", (), {"MeanDecay": 1.5}, "`MeanDecay` must be a finite number >= 0 and <= 1"),
        ("batch", (), {"ScaleL2Factor": -1}, "`ScaleL2Factor` must be"),
        ("batch", (), {"NumChannels": 0}, "`NumChannels` must be a positive integer or 'auto'"),
        ("batch", (), {"NumChannels": np.array([1, 2])}, "`NumChannels` must be a positive"),
        ("batch", (), {"ScaleInitializer": "one"}, "Did you mean 'ones'"),
        (
            "batch",
            (),
            {"TrainedVariance": [-1.0]},
            "`TrainedVariance` must contain finite numbers >=",
        ),
        ("batch", (), {"TrainedMean": [np.nan]}, "`TrainedMean` must contain finite numbers"),
        (
            "batch",
            (),
            {"Scale": np.ones((2, 2))},
            "`Scale` must contain one number for each channel",
        ),
        ("batch", (), {"Scale": [[1], [2, 3]]}, "`Scale` must contain one number for each channel"),
        ("batch", (), {"Name": 1}, "`Name` must be a string"),
        ("layer", (), {"OperationDimension": "channels"}, "Did you mean 'channel-only'"),
    ],
)
def test_bad_properties(kind, pairs, properties, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(kind, *pairs, **properties)


@pytest.mark.parametrize("groups", [0, 2.5, True, None, "channelwise"])
def test_bad_numbers_of_groups(groups):
    accepted = "a positive integer, 'all-channels' or 'channel-wise'. Received: numGroups="
    with pytest.raises(ValueError, match=f"`numGroups` must be {accepted}"):
        matlab.groupNormalizationLayer(groups)


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"NumChannels": 3, "Scale": [1, 2]}, "NumChannels for 3, Scale for 2"),
        ({"Scale": [1, 2], "Offset": [1, 2, 3]}, "Offset for 3, Scale for 2"),
        ({"TrainedMean": [1, 2], "TrainedVariance": [[[1]]]}, "Mean for 2, TrainedVariance for 1"),
    ],
)
def test_sizes_that_do_not_agree(properties, message):
    with pytest.raises(ValueError, match=rf"^batchNormalizationLayer: .*Received: .*{message}"):
        matlab.batchNormalizationLayer(**properties)


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"Scale": [1, 2, 3]}, "`Scale` of layer 'BN1'"),
        ({"TrainedMean": [1, 2, 3]}, "`TrainedMean` of layer 'BN1'"),
        ({"NumChannels": 3}, "`NumChannels` of layer 'BN1'"),
        ({"OffsetInitializer": lambda size: np.ones(7)}, "as `OffsetInitializer`"),
    ],
)
def test_errors_at_build_have_matlabs_names(properties, message):
    layer = matlab.batchNormalizationLayer(Name="BN1", **properties)
    with pytest.raises(ValueError, match=message):
        layer.build((None, 2))


def test_long_values_are_shortened_in_messages():
    with pytest.raises(ValueError, match="`Scale`") as caught:
        matlab.batchNormalizationLayer(Scale=np.ones((50, 100)))
    assert len(str(caught.value)) < 400
    with pytest.raises(TypeError, match="`Name`") as caught:
        matlab.batchNormalizationLayer(Name=[1.0] * 5000)
    assert len(str(caught.value)) < 400


def test_numbers_can_be_floats():
    layer = matlab.groupNormalizationLayer(2.0, NumChannels=4.0)
    assert (layer.groups, layer.num_channels) == (2, 4)
    assert matlab.trainingOptions("sgdm", MaxEpochs=3.0).MaxEpochs == 3


@pytest.mark.parametrize("decay", [0.0, 1e-14, 1e-5, 0.1, 0.3, 1 / 3, 1.0])
def test_decays_are_read_as_they_were_given(decay):
    found = matlab.properties(matlab.batchNormalizationLayer(MeanDecay=decay))["MeanDecay"]
    assert found == pytest.approx(decay, rel=1e-15, abs=1e-16)  # momentum is 1 minus it, a float
    assert 1 - found == 1 - decay


@pytest.mark.parametrize("built", [False, True])
def test_scale_overrides_its_initializer_which_is_kept(built, tmp_path):
    def sevens(size):
        return np.full(size, 7.0)

    layer = matlab.batchNormalizationLayer(
        Scale=[2, 3], ScaleInitializer="narrow-normal", Offset=[0, 1], OffsetInitializer=sevens
    )
    if built:
        layer.build((None, 2))
    found = as_lists(matlab.properties(layer))
    assert (found["Scale"], found["ScaleInitializer"]) == ([2, 3], "narrow-normal")
    assert (found["Offset"], found["OffsetInitializer"]) == ([0, 1], sevens)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").layers[0]
    assert matlab.properties(again)["ScaleInitializer"] == "narrow-normal"
    assert matlab.properties(again)["Scale"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("shape", "size"),
    [((2,), (2,)), ((5, 2), (2,)), ((4, 5, 2), (1, 1, 2)), ((3, 4, 5, 2), (1, 1, 1, 2))],
)
def test_values_have_the_size_of_the_input_type(shape, size):
    layer = matlab.batchNormalizationLayer(TrainedMean=np.ones((1, 1, 2)))
    assert matlab.properties(layer)["TrainedMean"].shape == (1, 1, 2)
    layer.build((None, *shape))
    found = matlab.properties(layer)
    for name in ("Scale", "Offset", "TrainedMean", "TrainedVariance"):
        assert found[name].shape == size
        setattr(layer, name, found[name])


CHANGED = {
    "Epsilon": 0.25,
    "ScaleInitializer": "narrow-normal",
    "OffsetInitializer": "ones",
    "Scale": [5.0, 6.0],
    "Offset": [7.0, 8.0],
    "ScaleLearnRateFactor": 0.5,
    "OffsetLearnRateFactor": 0.0,
    "ScaleL2Factor": 7.0,
    "OffsetL2Factor": 8.0,
}
CHANGED_OF_KIND = {
    "batch": {
        "TrainedMean": [3.0, 4.0],
        "TrainedVariance": [5.0, 6.0],
        "MeanDecay": 0.75,
        "VarianceDecay": 0.125,
    },
    "layer": {"OperationDimension": "auto"},
    "group": {"NumGroups": "channel-wise"},
    "instance": {},
}


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("built", [False, True])
def test_a_property_that_is_set_is_as_if_it_had_been_given(kind, built):
    changed = {**CHANGED, **CHANGED_OF_KIND[kind]}
    layer = make(kind, **{**EVERY_PROPERTY[kind], **COMMON})
    if built:
        layer.build((None, 3, 2))
    for name, value in changed.items():
        setattr(layer, name, value)
        assert as_lists(matlab.properties(layer))[name] == value
        found = getattr(layer, name)
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == value
    if kind == "group":
        other = matlab.groupNormalizationLayer("channel-wise", **{**COMMON, **CHANGED})
    else:
        other = make(kind, **{**COMMON, **changed})
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype("float32")
    np.testing.assert_array_equal(to_numpy(layer(x)), to_numpy(other(x)))
    if not built:
        before, after = layer.get_config(), other.get_config()
        assert {**before, "groups": 0} == {**after, "groups": 0}


def test_values_that_are_set_on_a_built_layer_keep_their_variable():
    layer = matlab.batchNormalizationLayer()
    layer.build((None, 4, 4, 2))
    gamma = layer.gamma
    layer.Scale = np.array([[[5, 6]]])
    assert layer.gamma is gamma
    assert to_numpy(gamma).tolist() == [5, 6]
    layer.ScaleLearnRateFactor = 2
    assert gamma.lr_multiplier == 2


def test_empty_values_that_are_set_bring_the_initializer_back():
    layer = matlab.batchNormalizationLayer(Scale=[1, 2], ScaleInitializer="zeros")
    layer.Scale = []
    layer.TrainedMean = [1, 2]
    layer.TrainedMean = []
    layer.build((None, 3))
    assert to_numpy(layer.gamma).tolist() == [0, 0, 0]
    assert to_numpy(layer.moving_mean).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="must keep its values"):
        layer.Scale = []


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("ScaleLearnRateFacto", 1, AttributeError, "Did you mean 'ScaleLearnRateFactor'"),
        ("scaleLearnRateFactor", 1, AttributeError, "Did you mean 'ScaleLearnRateFactor'"),
        ("meandecay", 0.2, AttributeError, "Did you mean 'MeanDecay'"),
        ("epsilon", 0.5, None, ""),
        ("scale", False, None, ""),
        ("MeanDecay", 2, ValueError, "`MeanDecay` must be"),
        ("Epsilon", 1e-50, ValueError, "`Epsilon` must be at least"),
        ("NumInputs", 2, AttributeError, "'NumInputs' of layer 'BN1' .* is read-only"),
        ("Name", "BN2", AttributeError, "'Name' of layer 'BN1' .* pass it to the function"),
        ("NumChannels", 3, ValueError, "NumChannels for 3, Scale for 2"),
        ("TrainedMean", [1, 2, 3], ValueError, "Scale for 2, TrainedMean for 3"),
        ("NumChannels", 2.0, None, ""),
    ],
)
def test_properties_that_cannot_be_set_raise(name, value, error, message):
    layer = matlab.batchNormalizationLayer(Name="BN1", Scale=[1, 2])
    if error is None:
        setattr(layer, name, value)
        assert getattr(layer, name) == value
    else:
        before = as_lists(matlab.properties(layer))
        with pytest.raises(error, match=message):
            setattr(layer, name, value)
        assert as_lists(matlab.properties(layer)) == before


def test_numbers_of_groups_and_channels_that_are_set_must_agree():
    layer = matlab.groupNormalizationLayer(4)
    layer.build((None, 8))
    with pytest.raises(ValueError, match="`NumGroups`"):
        layer.NumGroups = 3
    layer.NumGroups = 2
    assert layer.groups == 2
    with pytest.raises(ValueError, match="NumChannels for 16, Offset for 8"):
        layer.NumChannels = 16


def test_properties_are_those_of_our_layers_only():
    with pytest.raises(TypeError) as got:
        matlab.properties(keras.layers.Dense(1))
    names = [layer.__name__ for layer in OF_MATLAB]
    assert f"must be a {', '.join(names[:-1])} or {names[-1]} of keras_norm" in str(got.value)
