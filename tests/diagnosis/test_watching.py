"""Models of every kind, replicas, and invalid data."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_norm
from keras_norm import BatchNormalization, GroupNormalization, LayerNormalization, diagnose
from tests.diagnosis.helpers import data, findings, kinds, make_model
from tests.gradients import numpy

BACKEND = keras.backend.backend()


class Subclassed(keras.Model):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def call(self, x, training=None):
        return self.norm(x, training=training)


def sequential(norm):
    return keras.Sequential([keras.Input((4, 3)), norm])


def functional(norm):
    inputs = keras.Input((4, 3))
    return keras.Model(inputs, norm(inputs))


def nested(norm):
    return functional(sequential(norm))


def nested_in_subclassed(norm):
    return Subclassed(Subclassed(norm))


def in_time(norm):
    return sequential(layers.TimeDistributed(norm))


def in_both_directions(norm):
    return keras.Sequential([keras.Input((4, 3)), norm, layers.Bidirectional(layers.GRU(2))])


MAKES = [
    *(sequential, functional, Subclassed, nested, nested_in_subclassed),
    *(in_time, in_both_directions),
]


@pytest.mark.parametrize("cls", [BatchNormalization, layers.BatchNormalization])
@pytest.mark.parametrize("make", MAKES)
def test_models(make, cls):
    norm = cls(name="norm")
    model = make(norm)
    x = data(32, 4, 3, mean=5.0)
    (found,) = findings(model, x, batch_size=16)
    assert (found.layer, found.kind, found.channels) == (norm, "statistics", [0, 1, 2])
    # About 5 deviations; the tolerance is 0.5.
    expected = (x.mean((0, 1)) / x.std((0, 1)) / 0.5).max()
    assert found.value == pytest.approx(expected, rel=2e-3)
    norm.moving_mean.assign([5.0] * 3)
    assert kinds(model, x, batch_size=16) == []
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_channels_first():
    (found,) = findings(
        Subclassed(BatchNormalization(axis=1)), data(32, 3, 4, mean=5.0), batch_size=8
    )
    assert (found.kind, found.channels) == ("statistics", [0, 1, 2])


def used_twice(norm, distance):
    inputs = keras.Input((3,))
    return keras.Model(inputs, [norm(inputs), norm(inputs + distance)])


def test_a_shared_layer_is_fed_from_all_its_uses():
    norm = BatchNormalization()
    model = used_twice(norm, 0.8)
    x = data(512, 3)
    norm.moving_mean.assign([0.4] * 3)
    assert kinds(model, x) == []
    # Near one of the uses, but far from both together.
    for mean in (-0.4, 1.2):
        norm.moving_mean.assign([mean] * 3)
        assert kinds(model, x) == ["statistics"]


@pytest.mark.parametrize("cls", [BatchNormalization, layers.BatchNormalization])
def test_uses_of_a_shared_layer_that_differ(cls):
    """Training normalizes each use with its own moments; inference cannot."""
    norm = cls()
    model = used_twice(norm, 4.0)
    x = data(256, 3)
    norm.moving_mean.assign([2.0] * 3)
    norm.moving_variance.assign([5.0] * 3)
    (found,) = findings(model, x, batch_size=16)  # the batches of each use agree
    assert (found.kind, found.channels) == ("statistics", [0, 1, 2])
    # Both uses have a variance of v and are 2 from the union's mean, so the union has v + 4.
    variance = x.var(0, dtype="float64")
    ratio = np.log((variance + 4) / variance) / np.log(2)
    assert found.value == pytest.approx(
        np.maximum(ratio, 2 / np.sqrt(variance + 4) / 0.5).max(), rel=1e-2
    )
    assert "the layer's 2 uses differ" in found.remedy
    conversion = keras_norm.conversion
    replaced = conversion.replace_normalization(model, conversion.batch_to_group)
    assert kinds(replaced, x, batch_size=16) == []
    norm.trainable = False  # normalizes all uses alike, also in training
    assert kinds(used_twice(norm, 4.0), x, batch_size=16) == []


def test_uses_in_time_steps_that_differ():
    x = data(256, 4, 3) + np.array([0, 0, 4, 4], "float32")[:, None]
    for renorm in (False, True):
        norm = BatchNormalization(renorm=renorm, moving_mean_initializer=[2.0] * 3)
        model = in_time(norm)
        norm.moving_variance.assign([5.0] * 3)
        assert kinds(model, x, batch_size=16) == ([] if renorm else ["statistics"])
    # The layer takes all steps together.
    model = sequential(BatchNormalization())
    keras_norm.update_population_statistics(model, x, verbose=0)
    assert kinds(model, x, batch_size=16) == []


def test_a_layer_that_is_not_called_is_named():
    class Spare(Subclassed):
        def build(self, shape):
            self.spare = BatchNormalization(name="spare")
            self.spare.build(shape)

    with pytest.warns(UserWarning, match="No data reached these layers.*: 'spare'"):
        assert kinds(Spare(GroupNormalization(1)), data(8, 3)) == []


def test_layers_that_run_in_training_only_are_named():
    class InTraining(Subclassed):
        def call(self, x, training=None):
            return self.norm(x, training=training) if training else x

    with pytest.warns(UserWarning, match="No data reached these layers.*: 'unbuilt'"):
        report = diagnose(InTraining(BatchNormalization(name="unbuilt")), data(8, 3), batch_size=4)
    assert "0 normalization layers" in str(report)


class Cell(layers.Layer):
    state_size = 3

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x, states):
        return self.norm(x), states


def test_layers_are_listed_in_the_order_of_their_calls():
    """Keras lists those of nested models backwards."""
    names = [f"norm{number}" for number in range(4)]
    first, second, third, fourth = (BatchNormalization(name=name) for name in names)
    inner = keras.Sequential([keras.Input((4, 3)), second, third])
    model = keras.Sequential([keras.Input((4, 3)), first, inner, fourth])
    for norm in (first, second, third, fourth):
        norm.gamma.assign([0.0, 1.0, 1.0])
    found = [f.name for f in findings(model, data(32, 4, 3)) if f.kind == "gamma"]
    assert found == names


def test_a_call_that_the_user_has_set_stays():
    norm = BatchNormalization()
    model = sequential(norm)
    own = norm.call = functools.partial(norm.call)
    assert kinds(model, data(32, 4, 3)) == []
    assert norm.call is own


@pytest.mark.parametrize("model_in_scope", [True, False])
def test_layers_that_are_recomputed(model_in_scope):
    norms = BatchNormalization(), LayerNormalization()
    with keras.RematScope("full"):
        chain = [*norms, layers.Conv1D(3, 2, padding="causal")]
        model = keras.Sequential([keras.Input((4, 3)), *chain]) if model_in_scope else None
    model = model or keras.Sequential([keras.Input((4, 3)), *chain])
    found = findings(model, data(32, 4, 3, mean=5.0), batch_size=16)
    assert [(f.layer, f.kind) for f in found] == [*zip(norms, ("statistics", "time"), strict=True)]
    assert not any("rematerialized_call" in vars(layer) for layer in model.layers)


@pytest.mark.filterwarnings("ignore:No data reached")  # JAX's message for the second model
def test_cell_of_an_rnn():
    x = data(32, 4, 3, mean=5.0)
    model = sequential(layers.RNN(Cell(BatchNormalization())))
    if BACKEND == "jax":
        with pytest.raises(RuntimeError, match="cannot see the layer"):
            diagnose(model, x, verbose=0)
        assert not any("call" in vars(layer) for layer in model._flatten_layers())
    else:
        assert kinds(model, x, batch_size=16) == ["statistics"]
    # The weights of other layers are looked at anywhere.
    norm = LayerNormalization(reduction_axes=-1)
    model = sequential(layers.RNN(Cell(norm)))
    norm.gamma.assign([0.0, 1.0, 1.0])
    assert kinds(model, x) == ["gamma"]


@pytest.mark.parametrize("cls", [BatchNormalization, layers.BatchNormalization])
def test_batch_normalization_runs_as_in_training(cls):
    """Later layers get inputs as in training, so a wrong statistic is found where it is."""
    first, second = cls(), cls()
    found = findings(make_model(first, second), data(64, 3, mean=3.0))
    assert [f.layer for f in found] == [first]


def test_frozen_layers_and_dropout_run_as_in_inference():
    norm = BatchNormalization(trainable=False)
    after = BatchNormalization()
    model = make_model(norm, layers.Dropout(0.9), after)
    norm.moving_mean.assign([3.0] * 3)
    x = data(64, 3, mean=3.0)
    assert kinds(model, x) == []
    norm.moving_mean.assign([0.0] * 3)
    assert [f.layer for f in findings(model, x)] == [norm, after]


def test_several_inputs_and_texts():
    class Named(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = BatchNormalization()

        def call(self, x):
            return self.norm(x["a"] + ops.cast(x["b"], "float32"))

    x = {"a": data(64, 3), "b": np.zeros((64, 3), "int32")}
    assert kinds(Named(), x) == []
    x["b"] += 9
    assert kinds(Named(), x) == ["statistics"]


def state(model):
    return [numpy(variable) for variable in model.variables]


def failing(x):
    yield (x[:8],)
    raise OSError("lost")


def bad_data():
    x = data(64, 3)
    x[40, 1] = np.nan
    yield "Batch 2 of the data contains NaN", x
    yield "Batch 2 of the data contains NaN", ((x[i : i + 32],) for i in (0, 32))
    yield "at least one batch", np.zeros((0, 3), "float32")
    yield "lost", failing(data(64, 3))
    yield "Argument `x` must be data", None


@pytest.mark.filterwarnings("ignore")  # Keras's messages for empty data differ
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("built", [True, False])
def test_bad_data_leaves_the_model_as_it_is(number, built):
    message, x = list(bad_data())[number]
    model = Subclassed(BatchNormalization())
    if built:
        model(data(2, 3))
    before = state(model)
    # TensorFlow reports what a generator raises as an error of its own.
    with pytest.raises(Exception, match=message):
        diagnose(model, x, verbose=0)
    assert "call" not in vars(model.norm)
    if built:
        for old, new in zip(before, state(model), strict=True):
            np.testing.assert_array_equal(old, new)
    assert np.isfinite(model.predict(data(4, 3), verbose=0)).all()
    assert kinds(model, data(64, 3)) == []


@pytest.mark.parametrize("built", [True, False])
def test_models_without_normalization(built):
    model = keras.Sequential([layers.Dense(1)])
    if built:
        model.build((None, 3))
    with pytest.raises(ValueError, match="at least one normalization layer"):
        diagnose(model, data(4, 3), verbose=0)


def test_steps_take_samples_from_all_of_the_data():
    x = data(640, 3)
    x[320:] += 8
    (found,) = findings(sequential(BatchNormalization()), np.stack([x] * 4, 1), steps=4)
    # The moving variance is 1, that of the data 1 + 4^2, and that of each half 1.
    assert found.value == pytest.approx(np.log2(17), rel=0.1)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="steps=0"):
        diagnose(sequential(BatchNormalization()), data(4, 4, 3), steps=0)
    with pytest.raises(TypeError, match="must be a Keras model"):
        diagnose(BatchNormalization(), data(4, 3))
    inputs = [keras.Input((3,)), keras.Input((3,))]
    model = keras.Model(inputs, BatchNormalization()(layers.Add()(inputs)))
    with pytest.raises(ValueError, match="cardinality"):
        diagnose(model, [data(64, 3), data(32, 3)], verbose=0)


if BACKEND == "tensorflow":

    @pytest.mark.slow
    @pytest.mark.parametrize("built", [True, False])
    @pytest.mark.parametrize("synchronized", [False, True])
    def test_mirrored_strategy(synchronized, built):
        """Each replica normalizes its part of a batch, or all of it if synchronized."""
        from tests.replicas.on_tensorflow import strategy

        x = data(202, 16)
        with strategy().scope():
            norm = BatchNormalization(synchronized=synchronized)
            model = Subclassed(norm)
            if built:
                model(x[:2])
        # A replica has 4 of 8 samples: their means scatter by 0.5 deviations, of 8 by 0.35.
        assert kinds(model, x, batch_size=8) == ([] if synchronized else ["batch"])
        norm.moving_mean.assign([3.0] * 16)
        assert "statistics" in kinds(model, x, batch_size=32)
        x[40] = np.nan
        with pytest.raises(ValueError, match="Batch 2 of the data contains NaN"):
            diagnose(model, x, verbose=0)
        with pytest.raises(ValueError, match="Batch 2 of the data contains NaN"):
            diagnose(model, ((x[i : i + 32],) for i in (0, 32)), verbose=0)
        assert "call" not in vars(norm)

    def test_a_function_that_was_compiled_by_itself():
        import tensorflow as tf

        class Compiled(Subclassed):
            def build(self, shape):
                self.norm.build(shape)
                self.function = tf.function(self.norm)

            def call(self, x):
                return self.function(x)

        model = Compiled(BatchNormalization())
        x = data(8, 3)
        model(x)  # traced, and kept
        with pytest.warns(UserWarning, match="No data reached"):
            diagnose(model, x, verbose=0)
        model.function = tf.function(model.norm)
        with pytest.raises(RuntimeError, match="cannot see the layer"):
            diagnose(model, x, verbose=0)


if BACKEND == "jax":

    def test_data_parallel():
        import jax

        distribution = keras.distribution.DataParallel(devices=jax.devices())
        with distribution.scope():
            norm = BatchNormalization()
            model = make_model(norm, shape=(16,))
            x = data(200, 16)
            # The batch is one: means of 8 scatter by 0.35 deviations, those of halves by 0.5.
            assert kinds(model, x, batch_size=8) == []
            norm.moving_mean.assign([3.0] * 16)
            assert kinds(model, x, batch_size=32) == ["statistics"]

    def test_no_tracer_outlives_its_trace():
        import jax

        model = sequential(layers.TimeDistributed(BatchNormalization()))
        with jax.checking_leaks():
            assert kinds(model, data(64, 4, 3)) == []


if BACKEND == "torch":

    def test_modules_keep_the_mode_that_they_have():
        model = make_model(BatchNormalization())
        model.train()
        modes = [module.training for module in model.modules()]
        kinds(model, data(8, 3))
        assert [module.training for module in model.modules()] == modes

    def _scatter(rank, x, folder):
        for synchronized, expected in ((False, ["batch"]), (True, [])):
            model = make_model(BatchNormalization(synchronized=synchronized), shape=(16,))
            assert kinds(model, x[rank::2], batch_size=4) == expected

    @pytest.mark.slow
    def test_processes(tmp_path):
        from tests.replicas.processes import spawn

        spawn(_scatter, data(200, 16), tmp_path)
