"""Wrong arguments: the exception's type, the argument's name, what was received."""

import keras
import numpy as np
import pytest

from keras_norm import (
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    RMSNormalization,
)
from keras_norm.ops import registry
from tests.gradients import vjp
from tests.kinds import LAYERS

ALL = list(LAYERS.values())
NAN = float("nan")
HUGE = 10**400  # beyond float64


@pytest.mark.parametrize("layer", ALL)
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"epsilon": 0}, ValueError),
        ({"epsilon": -1e-5}, ValueError),
        ({"epsilon": NAN}, ValueError),
        ({"epsilon": float("inf")}, ValueError),
        ({"epsilon": "small"}, TypeError),
        ({"epsilon": None}, TypeError),
        ({"gamma_initializer": "narow-normal"}, ValueError),
        ({"beta_initializer": None}, ValueError),
        ({"beta_initializer": int}, ValueError),
        ({"beta_initializer": 3}, ValueError),
        ({"beta_initializer": ["a", "b"]}, ValueError),
        ({"beta_initializer": [1j, 2]}, ValueError),
        ({"gamma_initializer": [1, NAN]}, ValueError),
        ({"gamma_initializer": np.array([1, float("inf")])}, ValueError),
        ({"gamma_initializer": [HUGE, 1]}, ValueError),
        ({"epsilon": 1e-39}, ValueError),  # counts as 0 in float32
        ({"epsilon": HUGE}, ValueError),
        ({"epsilon": np.ones(3)}, TypeError),
        ({"gamma_lr_multiplier": HUGE}, ValueError),
        ({"num_channels": NAN}, TypeError),
        ({"num_channels": np.ones(3)}, TypeError),
        ({"center": HUGE}, TypeError),
        ({"beta_constraint": HUGE}, ValueError),
        ({"beta_regularizer": "l7"}, ValueError),
        ({"gamma_regularizer": 0.1}, ValueError),
        ({"beta_constraint": "positive"}, ValueError),
        ({"gamma_constraint": 1}, ValueError),
        ({"center": "no"}, TypeError),
        ({"scale": None}, TypeError),
        ({"gamma_initializer": [[1.0], [2.0, 3.0]]}, ValueError),
        ({"gamma_lr_multiplier": -1}, ValueError),
        ({"beta_lr_multiplier": NAN}, ValueError),
        ({"gamma_l2_multiplier": float("inf")}, ValueError),
        ({"beta_l2_multiplier": "1"}, TypeError),
        ({"beta_l2_multiplier": True}, TypeError),
        ({"num_channels": 0}, ValueError),
        ({"num_channels": "many"}, TypeError),
        ({"num_channels": 2.5}, TypeError),
        ({"axis": "last"}, TypeError),
        ({"axis": 1.5}, TypeError),
    ],
    ids=str,
)
def test_every_layer(layer, arguments, error):
    (name,) = arguments
    with pytest.raises(error, match=rf"{name}.*Received: {name}=|'axis'.*received: axis=") as got:
        layer(**arguments)
    assert len(str(got.value)) < 400


@pytest.mark.parametrize("layer", ALL)
@pytest.mark.parametrize(
    "name", ["epsilon", "gamma_initializer", "gamma_regularizer", "axis", "num_channels"]
)
@pytest.mark.parametrize("values", [["a"] * 5000, np.full(5000, NAN)], ids=["list", "array"])
def test_long_values_are_shown_short(layer, name, values):
    with pytest.raises((TypeError, ValueError), match=name) as got:
        layer(**{name: values})
    assert len(str(got.value)) < 400


@pytest.mark.parametrize("name", ["axis", "num_channels", "groups"])
def test_huge_integers_that_only_the_input_refutes(name):
    layer = GroupNormalization(**{"groups": 2, name: HUGE})
    with pytest.raises(ValueError, match=name) as got:
        layer(np.ones((2, 4)))
    assert len(str(got.value)) < 400


@pytest.mark.parametrize("layer", ALL)
@pytest.mark.parametrize("value", [NAN, 1j])
def test_initial_values_that_are_not_finite_real_numbers(layer, value):
    for given in (
        lambda shape: np.full(shape, value),
        lambda shape: keras.ops.convert_to_tensor(np.full(shape, value)),
        keras.initializers.Constant(value),
    ):
        with pytest.raises(ValueError, match=r"`gamma_initializer`.*finite real numbers.*Received"):
            layer(gamma_initializer=given).build((None, 32))


@pytest.mark.parametrize(
    "given",
    [
        [1.0, -1e-3],
        np.array([0.0, -2.0]),
        keras.initializers.Constant(-1.0),
        keras.initializers.serialize(keras.initializers.Constant(-1.0)),
    ],
    ids=["list", "array", "number", "config"],
)
def test_negative_moving_variances(given):
    with pytest.raises(ValueError, match=r"`moving_variance_initializer`.* >= 0 .*Received: mov"):
        BatchNormalization(moving_variance_initializer=given)
    BatchNormalization(moving_mean_initializer=given, moving_variance_initializer=[0.0, 1.0])


def test_negative_moving_variances_of_functions():
    layer = BatchNormalization(moving_variance_initializer=lambda shape: -np.ones(shape))
    with pytest.raises(ValueError, match=r"`moving_variance_initializer`.* >= 0 .*Received: mov"):
        layer.build((None, 2))
    # The function of another argument has the limit of the argument that it is given for.
    offsets = BatchNormalization(beta_initializer=layer.moving_variance_initializer)
    offsets.build((None, 2))
    scales = BatchNormalization(moving_variance_initializer=offsets.beta_initializer)
    with pytest.raises(ValueError, match=r"finite real numbers >= 0"):
        scales.build((None, 2))


@pytest.mark.parametrize("layer", ALL)
def test_smallest_epsilon_keeps_constant_inputs_finite(layer):
    epsilon = float(np.finfo("float32").tiny)
    y = layer(epsilon=epsilon)(np.full((2, 3, 32), 2.0, "float32"), training=True)
    assert np.isfinite(keras.ops.convert_to_numpy(y)).all()


@pytest.mark.parametrize("layer", ALL)
@pytest.mark.parametrize("executors", [True, False], ids=["executors", "plain functions"])
def test_smallest_epsilon_keeps_gradients_of_constant_inputs_finite(layer, executors):
    # The root mean square of zeros is 0 too. 1 / sqrt(epsilon) to the third power is infinite.
    x = np.full((2, 3, 32), 0.0 if layer is RMSNormalization else 2.0, "float32")
    upstream = np.random.default_rng(0).standard_normal(x.shape).astype("float32")
    layer = layer(epsilon=float(np.finfo("float32").tiny))
    layer.build(x.shape)
    was_enabled = registry.is_enabled()
    registry.set_enabled(executors)
    try:
        for compiled in (False, True):
            found = vjp(lambda x: layer(x, training=True), [x], upstream, compiled)
            assert all(np.isfinite(v).all() for v in found)
    finally:
        registry.set_enabled(was_enabled)


@pytest.mark.parametrize("layer", ALL)
@pytest.mark.parametrize("value", [32.0, np.float32(32), np.int64(32)])
def test_whole_floats_are_whole_numbers(layer, value):
    made = layer(num_channels=value)
    assert type(made.get_config()["num_channels"]) is int
    made.build((None, 32))


@pytest.mark.parametrize("layer", ALL)
@pytest.mark.parametrize(
    "inputs",
    [None, [1.0, 2.0], [[1.0, 2.0], [3.0]], [np.ones((2, 3))] * 2, {"x": np.ones((2, 3))}],
)
def test_several_inputs_and_lists(layer, inputs):
    with pytest.raises(ValueError, match=r"'n'.*one tensor or array.*Received: inputs="):
        layer(name="n")(inputs)


@pytest.mark.parametrize("layer", [BatchNormalization, GroupNormalization, InstanceNormalization])
def test_input_of_rank_1(layer):
    with pytest.raises(ValueError, match=r"a batch axis and a channel axis.*input shape \(4,\)"):
        layer()(np.ones(4))


@pytest.mark.parametrize("layer", ALL)
def test_complex_input(layer):
    with pytest.raises(TypeError, match=r"floating or integer dtype.*Received: inputs.dtype=compl"):
        layer()(keras.ops.convert_to_tensor(np.ones((2, 32), "complex64")))


@pytest.mark.parametrize("name", ["momentum", "variance_momentum"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(-0.1, ValueError), (1.1, ValueError), (NAN, ValueError), ("0.9", TypeError)],
)
def test_momenta(name, value, error):
    with pytest.raises(error, match=rf"`{name}` must be a finite number >= 0 and <= 1\. Received"):
        BatchNormalization(**{name: value})


def test_variance_momentum_of_zero_is_a_number():
    """MATLAB's `VarianceDecay=1`: the moving variance is the last batch's."""
    layer = BatchNormalization(momentum=0.9, variance_momentum=0.0)
    x = np.random.default_rng(0).standard_normal((8, 3)).astype("float32")
    layer(x, training=True)
    variance = keras.ops.convert_to_numpy(layer.moving_variance)
    np.testing.assert_allclose(variance, x.var(0), rtol=1e-6)


@pytest.mark.parametrize("groups", [0, -2, 1.5, NAN, True, "all", None, [2], np.ones(2)])
def test_groups(groups):
    with pytest.raises(ValueError, match=r"`groups`.*positive integer.*Received: groups="):
        GroupNormalization(groups=groups)


def test_groups_that_do_not_divide():
    for build in (
        lambda: GroupNormalization(groups=4, name="gn")(np.ones((2, 6))),
        lambda: GroupNormalization(groups=4, num_channels=6, name="gn"),
    ):
        with pytest.raises(
            ValueError,
            match=r"'gn'.*must divide the number of channels\. "
            r"Received: groups=4, 6 channels, which are divisible by 1, 2, 3, 6$",
        ):
            build()
    with pytest.raises(ValueError, match=r"cannot be more than.*groups=8, 6 channels"):
        GroupNormalization(groups=8)(np.ones((2, 6)))
    with pytest.raises(ValueError, match=r"`axis`.*batch axis"):
        GroupNormalization(groups=1, axis=0)(np.ones((2, 6)))
    with pytest.raises(ValueError, match=r"`axis`.*batch axis.*Received: axis=-2"):
        GroupNormalization(groups=1, axis=-2)(np.ones((2, 6)))
    assert GroupNormalization(groups=3.0).groups == 3


@pytest.mark.parametrize("layer", ALL)
@pytest.mark.parametrize("axis", [2, -3])
def test_axis_out_of_range(layer, axis):
    with pytest.raises(ValueError, match=rf"`axis`.*rank 2.*\[-2, 1\]\..* Received: axis={axis}"):
        layer(axis=axis)(np.ones((2, 3)))


def test_axes_of_layer_normalization():
    for name in ("axis", "reduction_axes"):
        with pytest.raises(ValueError, match=rf"`{name}`.*none twice. Received: {name}=\[1, 1\]"):
            LayerNormalization(**{name: [1, 1]})
        with pytest.raises(ValueError, match=rf"`{name}`.*at least one.*Received: {name}=\[\]"):
            LayerNormalization(**{name: []})
        with pytest.raises(ValueError, match=rf"`{name}`.*twice.*Received: {name}=\[1, -2\]"):
            LayerNormalization(**{name: [1, -2]})(np.ones((2, 3, 4)))
        with pytest.raises(ValueError, match=rf"`{name}`.*rank 3.*Received: {name}=3"):
            LayerNormalization(**{name: [1, 3]})(np.ones((2, 3, 4)))
        with pytest.raises(TypeError, match=rf"argument '{name}'.*received: {name}=\[1, 'a'\]"):
            LayerNormalization(**{name: [1, "a"]})
    with pytest.raises(ValueError, match="besides the batch"):
        LayerNormalization()(np.ones(3))
    with pytest.raises(ValueError, match=r"`num_channels` goes with a single `axis`"):
        LayerNormalization(axis=[1, 2], num_channels=3)
    with pytest.raises(ValueError, match=r"known sizes. Received: axis=\[1, 2\]"):
        LayerNormalization(axis=[1, 2])(keras.Input((None, 3)))


@pytest.mark.parametrize("layer", ALL)
def test_number_of_channels(layer):
    with pytest.raises(ValueError, match=r"'n'.* is 6, but axis -1 of the input has 4 channels"):
        layer(num_channels=6, name="n", **({"groups": 2} if layer is GroupNormalization else {}))(
            np.ones((2, 4))
        )
    with pytest.raises(ValueError, match=r"defined dimension.*\(None, 3, None\).*'n'"):
        layer(name="n")(keras.Input((3, None)))


@pytest.mark.parametrize("layer", ALL)
@pytest.mark.parametrize("name", ["gamma_initializer", "beta_initializer"])
def test_values_of_a_wrong_size(layer, name):
    arguments = {"center": True, **({"groups": 2} if layer is GroupNormalization else {})}
    with pytest.raises(
        ValueError, match=rf"`{name}`.*'n'.*shape \(4,\).*3 values, of shape \(3,\)"
    ):
        layer(name="n", **{name: [1.0, 2.0, 3.0]}, **arguments)(np.ones((2, 4)))
    with pytest.raises(ValueError, match=rf"`{name}`.*shape \(4,\).*5 values"):
        layer(name="n", **{name: lambda shape: np.ones(5)}, **arguments)(np.ones((2, 4)))


@pytest.mark.parametrize("layer", ALL)
def test_input_of_another_size_than_built_for(layer):
    layer = layer(**({"groups": 2} if layer is GroupNormalization else {}))
    layer(np.ones((2, 4)))
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layer(np.ones((2, 6)))


def test_layer_normalization_takes_other_ranks_than_it_was_built_for():
    layer = LayerNormalization(reduction_axes=-1)
    layer(np.ones((2, 4)))
    assert layer(np.ones((2, 3, 4))).shape == (2, 3, 4)
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layer(np.ones((2, 4, 3)))
    layer = LayerNormalization(axis=[1, 2])
    layer(np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layer(np.ones((2, 3)))


def test_masks():
    x = np.ones((2, 3, 4))
    layer = BatchNormalization()
    layer(x, mask=[[True, True, False]] * 2, training=True)
    with pytest.raises(ValueError, match=r"mask.shape=\(2, 2\), inputs.shape=\(2, 3, 4\)"):
        layer(x, mask=[[True, False]] * 2, training=True)


def test_synchronized():
    with pytest.raises(TypeError, match=r"`synchronized` must be True or False. Received: .*'yes'"):
        BatchNormalization(synchronized="yes")
