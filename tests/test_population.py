import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_norm
from keras_norm import BatchNormalization, callbacks, update_population_statistics
from keras_norm.population import loop
from keras_norm.population.passes import Passes
from keras_norm.population.union import Union
from tests import oracle
from tests.gradients import numpy

BACKEND = keras.backend.backend()
# The promised error of the moments of all data.
TOLERANCE = 2e-6


def data(*shape, mean=500.0, seed=0):
    return (mean + np.random.default_rng(seed).standard_normal(shape)).astype("float32")


def sequential(*model_layers, shape):
    return keras.Sequential([keras.Input(shape), *model_layers])


def update(model, x, **arguments):
    update_population_statistics(model, x, verbose=0, **arguments)


def statistics(layer):
    return numpy(layer.moving_mean), numpy(layer.moving_variance)


def check_moments(layer, values, weights=None):
    """Compares the layer's statistics with the moments of `values` over all but the last axis."""
    axes = range(values.ndim - 1)
    _, mean, variance = oracle.normalize(values, axes, weights=weights)
    assert oracle.error(layer.moving_mean, mean.ravel()) < TOLERANCE
    assert oracle.error(layer.moving_variance, variance.ravel()) < TOLERANCE


@pytest.mark.parametrize("batch_size", [1, 7, 32, 101])
def test_statistics_of_all_of_the_data_whatever_the_batch_size(batch_size):
    x = data(101, 3, 2)
    layer = BatchNormalization()
    model = sequential(layer, shape=(3, 2))
    update(model, x, batch_size=batch_size)
    check_moments(layer, x)
    once = statistics(layer)
    update(model, x, batch_size=batch_size)
    np.testing.assert_array_equal(statistics(layer), once)


def test_union_of_many_parts():
    rng = np.random.default_rng(0)
    values = data(700, 2, mean=1e4)
    # Each part stands for 3 million equal elements: float32 counts no further than 16 million.
    counts = rng.integers(1, 3_000_000, (700, 1))
    model = sequential(BatchNormalization(), shape=(2,))
    union = Union(model)
    held = 0
    for count, value in zip(counts, values, strict=True):
        zeros = np.zeros(2, "float32")
        union.add(
            keras.ops.convert_to_tensor(
                np.stack([zeros + count, value, zeros, zeros]).astype("float32")
            )
        )
        held = max(held, sum(map(len, union._levels)))
    count, shift, residual, variance = numpy(union.result()).astype("float64")
    weights = counts / counts.sum()
    mean = (values * weights).sum(0)
    expected = ((values - mean) ** 2 * weights).sum(0)
    np.testing.assert_allclose(count, counts.sum(), rtol=1e-6)
    assert oracle.error(shift + residual - mean, 0 * mean, np.sqrt(expected)) < TOLERANCE
    assert oracle.error(variance, expected) < TOLERANCE
    assert held <= 3 * 16
    assert union.result() is None


def test_a_pass_uses_batch_moments_and_inference():
    x = data(10, 3)
    first, second = BatchNormalization(), BatchNormalization()
    model = sequential(first, layers.Dropout(0.5), layers.GaussianNoise(1.0), second, shape=(3,))
    update(model, x, batch_size=4)
    seen = [oracle.normalize(batch, [0])[0] for batch in np.split(x, [4, 8])]
    check_moments(first, x)
    # What the first layer puts out has mean 0: measured by its deviation.
    expected = np.concatenate(seen)
    np.testing.assert_allclose(numpy(second.moving_mean), 0, atol=TOLERANCE)
    assert oracle.error(second.moving_variance, expected.var(0)) < TOLERANCE


def test_second_pass_uses_what_the_first_found():
    x = data(10, 3, mean=0.0)
    first, second = BatchNormalization(), BatchNormalization()
    model = sequential(first, layers.ReLU(), second, shape=(3,))
    update(model, x, batch_size=4, passes=2)
    _, mean, variance = oracle.normalize(x, [0])
    check_moments(second, np.maximum((x - mean) / np.sqrt(variance + 1e-5), 0))


def test_passes_make_deep_networks_consistent_with_inference():
    keras.utils.set_random_seed(1)
    norms = [BatchNormalization() for _ in range(4)]
    blocks = [layer for norm in norms for layer in (layers.Dense(8), norm, layers.ReLU())]
    model = sequential(*blocks, shape=(8,))
    x = data(64, 8, mean=0.0)
    probes = keras.Model(model.inputs[0], [norm.input for norm in norms])

    def inconsistency():
        """The difference between a layer's variance and that of its inputs in inference."""
        inputs = [numpy(values).astype("float64") for values in probes(x)]
        return max(
            oracle.error(norm.moving_variance, values.var(0))
            for norm, values in zip(norms, inputs, strict=True)
        )

    found = []
    for passes in (1, 2, 4):
        update(model, x, batch_size=4, passes=passes)
        found.append(inconsistency())
    assert found[0] > 0.05
    assert found[2] < 1e-5 < found[1]


class AlwaysNoise(layers.Layer):
    """Draws random numbers in inference, too."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal(x.shape[-1:], seed=self.seed)


def test_nothing_else_changes_and_training_goes_on():
    x, y = data(20, 4, mean=3.0), data(20, 1, mean=0.0)
    norm = BatchNormalization()
    model = sequential(
        layers.Dense(4), norm, layers.Dropout(0.5), AlwaysNoise(), layers.Dense(1), shape=(4,)
    )
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(x, y, batch_size=8, verbose=0)

    def state():
        own = (norm.moving_mean, norm.moving_variance)
        others = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        return [numpy(v) for v in others if not any(v is o for o in own)]

    before = state()
    update(model, x, batch_size=8)
    for old, new in zip(before, state(), strict=True):
        np.testing.assert_array_equal(old, new)
    population_mean = numpy(norm.moving_mean)
    model.fit(x + 1, y, batch_size=20, verbose=0)
    assert norm._observer is None
    assert 0 < oracle.error(norm.moving_mean, population_mean) < 0.5


def test_training_takes_the_course_it_takes_without_a_pass():
    x, y = data(20, 3, mean=0.0), data(20, 1, mean=0.0)

    def losses(between):
        keras.utils.set_random_seed(0)
        model = sequential(BatchNormalization(), layers.Dropout(0.5), layers.Dense(1), shape=(3,))
        model.compile("adam", "mse")
        found = []
        for _ in range(2):
            found += model.fit(x, y, batch_size=8, shuffle=True, verbose=0).history["loss"]
            between(model)
        return found

    assert losses(lambda model: update(model, x, batch_size=8)) == losses(lambda model: None)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_steps_of_arrays(steps):
    x = data(11, 3)
    layer = BatchNormalization()
    model = sequential(layer, shape=(3,))
    update(model, x, batch_size=4, steps=steps, passes=2)
    check_moments(layer, x[: 4 * steps])
    update(model, x, batch_size=4)
    check_moments(layer, x)


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return (self.x[4 * index : 4 * index + 4],)


def kinds(x):
    y = np.zeros(len(x), "float32")
    parts = [slice(0, 4), slice(4, 8), slice(8, 10)]
    weights = np.arange(len(x), dtype="float32")  # which are not used
    yield "array", x, {"batch_size": 4}
    yield "tensor", keras.ops.convert_to_tensor(x), {"batch_size": 4}
    yield "PyDataset", Batches(x), {}
    yield "generator of x", ((x[p],) for p in parts), {}
    yield "generator of x, y", ((x[p], y[p]) for p in parts), {"steps": 3}
    yield "generator of x, y, weight", ((x[p], y[p], weights[p]) for p in parts), {}
    if BACKEND == "torch":
        import torch

        dataset = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
        yield "DataLoader", torch.utils.data.DataLoader(dataset, batch_size=4), {}
    if BACKEND == "tensorflow":
        import tensorflow as tf

        yield "tf.data", tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(4), {}
        yield "tf.data of x", tf.data.Dataset.from_tensor_slices(x).batch(4), {}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # so says evaluate, too
def test_takes_what_fit_takes():
    x = data(10, 3)
    layer = BatchNormalization()
    model = sequential(layer, shape=(3,))
    for name, values, arguments in kinds(x):
        layer.moving_mean.assign([0, 0, 0])
        update(model, values, **arguments)
        assert oracle.error(layer.moving_mean, x.mean(0, "float64")) < TOLERANCE, name


@pytest.mark.parametrize("container", [list, dict])
def test_takes_several_inputs(container):
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    norms = [BatchNormalization(), BatchNormalization()]
    outputs = [norm(value) for norm, value in zip(norms, inputs.values(), strict=True)]
    values = {"a": data(5, 3), "b": data(5, 2, mean=-1.0)}
    if container is list:
        inputs, values = list(inputs.values()), list(values.values())
    update(keras.Model(inputs, outputs), values, batch_size=2)
    check_moments(norms[0], data(5, 3))
    check_moments(norms[1], data(5, 2, mean=-1.0))


class Subclassed(keras.Model):
    """No argument `training`, and layers that are made when it is built."""

    def build(self, input_shape):
        self.inner = keras.Sequential([BatchNormalization(name="inner"), layers.Dropout(0.5)])

    def call(self, x):
        return self.inner(x) * 2


def test_subclassed_nested_and_not_built():
    x = data(10, 3)
    model = Subclassed()
    update(model, x, batch_size=4)
    check_moments(model.inner.layers[0], x)


def test_shared_layer_gets_the_statistics_of_all_its_uses():
    shared = BatchNormalization()
    first, second = keras.Input((4, 2)), keras.Input((1, 2))
    model = keras.Model([first, second], [shared(first), shared(second)])
    x = [data(5, 4, 2), data(5, 1, 2, mean=400.0, seed=1)]
    update(model, x, batch_size=2)
    check_moments(shared, np.concatenate([a.reshape(-1, 2) for a in x]))


def test_masks_weigh_what_they_hold():
    x = data(9, 5, 2)
    held = np.random.default_rng(1).random((9, 5)) < 0.4
    held[0] = False
    x[~held] = 0
    layer = BatchNormalization()
    update(sequential(layers.Masking(), layer, shape=(5, 2)), x, batch_size=2)
    check_moments(layer, x, held[..., None])


def test_frozen_layers_keep_theirs_and_run_in_inference():
    frozen = BatchNormalization(trainable=False, moving_mean_initializer=[500.0, 400.0])
    layer = BatchNormalization()
    x = data(6, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        update(sequential(frozen, layer, shape=(2,)), x, batch_size=4)
    np.testing.assert_array_equal(statistics(frozen), [[500, 400], [1, 1]])
    check_moments(layer, (x - np.array([500.0, 400.0])) / np.sqrt(1 + 1e-5))


@pytest.mark.parametrize("trainable", [True, False])
def test_parts_that_are_called_in_inference_keep_theirs_only_if_frozen(trainable):
    layer = BatchNormalization(trainable=trainable)
    part = sequential(layer, shape=(2,))
    inputs = keras.Input((2,))
    after = BatchNormalization()
    x = data(20, 2)
    update(keras.Model(inputs, after(part(inputs, training=False))), x, batch_size=20)
    if trainable:
        check_moments(layer, x)
    else:
        np.testing.assert_array_equal(statistics(layer), [[0, 0], [1, 1]])


def test_trainable_is_looked_at_again():
    first, second = BatchNormalization(), BatchNormalization()
    model = sequential(first, second, shape=(2,))
    update(model, data(6, 2))
    first.trainable = False
    before = statistics(first)
    x = data(6, 2, seed=1)
    update(model, x)
    np.testing.assert_array_equal(statistics(first), before)
    mean, variance = before
    check_moments(second, (x - mean.astype("float64")) / np.sqrt(variance + 1e-5))


def test_statistics_are_float32_in_mixed_precision():
    x = data(50, 2, mean=0.0)
    layer = BatchNormalization(dtype="mixed_float16")
    model = keras.Sequential([keras.Input((2,)), layer])
    update(model, x, batch_size=7)
    check_moments(layer, x)


def failing(error, x):
    yield (x[:4],)
    yield (x[4:8],)
    raise error


class FailsLater(Batches):
    """Raises an error in its second pass."""

    def __init__(self, x, error):
        super().__init__(x)
        self.error = error
        self.asked = []

    def __getitem__(self, index):
        self.asked.append(index)
        if self.asked.count(1) == 2:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("error", [OSError("lost"), KeyboardInterrupt()])
@pytest.mark.parametrize("passes", [1, 2])
def test_failure_leaves_the_old_statistics_and_a_usable_model(error, passes):
    x = data(10, 3)
    layer = BatchNormalization(moving_mean_initializer=[1.0, 2.0, 3.0])
    model = sequential(layer, shape=(3,))
    before = statistics(layer)
    values = failing(error, x) if passes == 1 else FailsLater(x, error)
    # TensorFlow reports what a generator raises as its own error.
    with pytest.raises(BaseException, match=r"lost|Keyboard|^$"):
        update(model, values, passes=passes)
    np.testing.assert_array_equal(statistics(layer), before)
    assert layer._observer is None
    assert np.isfinite(model.predict(x, verbose=0)).all()
    update(model, x, batch_size=4)
    check_moments(layer, x)


def test_an_interrupt_in_the_second_pass_leaves_the_old_statistics(monkeypatch):
    found = []
    x = data(10, 3)
    layer = BatchNormalization()
    model = sequential(layer, shape=(3,))
    add = Passes._add

    def interrupted(passes, batch):
        if not passes._observer.uses_batch:
            found.append(statistics(layer))
            raise KeyboardInterrupt
        add(passes, batch)

    monkeypatch.setattr(Passes, "_add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update(model, x, batch_size=4, passes=2)
    assert abs(found[0][0] - x.mean(0)).max() < 1e-3  # the first pass had set its own
    np.testing.assert_array_equal(statistics(layer), [[0] * 3, [1] * 3])


def test_an_update_in_the_middle_of_fit_is_one_of_the_weights_that_it_has_then():
    x, y = data(20, 3, mean=1.0), data(20, 1, mean=0.0)
    dense, norm = layers.Dense(3), BatchNormalization()
    model = sequential(dense, norm, layers.Dense(1), shape=(3,))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    first = [numpy(v) for v in dense.weights]

    def look(batch, logs):
        update(model, x, batch_size=20)
        kernel, bias = map(numpy, dense.weights)
        assert abs(kernel - first[0]).max() > 1e-4
        check_moments(norm, x.astype("float64") @ kernel + bias)
        found.append(batch)

    found = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    model.fit(x, y, batch_size=10, callbacks=[callback], verbose=0)
    assert found == [0, 1]


class OnceOnly(Batches):
    """Has nothing for a second pass."""

    size = 3

    def __len__(self):
        return self.size

    def on_epoch_end(self):
        self.size = 0


@pytest.mark.filterwarnings("ignore")  # Keras's messages for empty data differ
@pytest.mark.parametrize("built", [True, False])
def test_data_that_holds_nothing(built):
    model = sequential(BatchNormalization(), shape=(3,)) if built else Subclassed()
    with pytest.raises(ValueError, match="at least one batch"):
        update(model, np.zeros((0, 3), "float32"))


@pytest.mark.filterwarnings("ignore")  # Keras's messages for empty data differ
def test_old_statistics_are_back_if_a_later_pass_finds_no_data():
    layer = BatchNormalization()
    model = sequential(layer, shape=(3,))
    with pytest.raises(ValueError, match="at least one batch"):
        update(model, OnceOnly(data(10, 3)), passes=2)
    np.testing.assert_array_equal(statistics(layer), [[0] * 3, [1] * 3])


def test_a_generator_serves_several_passes_only_with_steps():
    x = data(8, 3)
    layer = BatchNormalization()
    model = sequential(layer, shape=(3,))
    with pytest.raises(ValueError, match="A generator is used up after one pass"):
        update(model, ((x[i : i + 4],) for i in (0, 4)), passes=2)
    update(model, ((x[i : i + 4],) for i in (0, 4) * 5), passes=2, steps=2)
    check_moments(layer, x)


class Endless(Batches):
    @property
    def num_batches(self):
        return None


def endless(x):
    yield "PyDataset", Endless(x)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        yield "tf.data", tf.data.Dataset.from_tensor_slices(x[:12]).batch(4).repeat()


def test_data_that_has_no_end_needs_steps():
    x = data(12, 3)
    for _, values in endless(x):
        with pytest.raises(ValueError, match="The data has no end: pass `steps`"):
            update(sequential(BatchNormalization(), shape=(3,)), values)
        with pytest.raises(ValueError, match="The data has no end: pass `steps`"):
            callbacks.PopulationStatistics(values)
        layer = BatchNormalization()
        update(sequential(layer, shape=(3,)), values, steps=3)
        check_moments(layer, x)


def test_a_generator_that_goes_on_is_told_to_have_steps(monkeypatch):
    monkeypatch.setattr(loop, "_MANY_BATCHES", 5)
    x = data(4, 3)
    layer = BatchNormalization()
    model = sequential(layer, shape=(3,))
    with pytest.warns(UserWarning, match="has returned 5 batches so far"):
        update(model, ((x,) for _ in range(6)))
    check_moments(layer, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        update(model, ((x,) for _ in range(6)), steps=6)


def test_data_that_fails_names_the_batch():
    def failing():
        yield (data(4, 3),)
        yield (data(4, 3),)
        raise OSError("lost")

    # TensorFlow reports what a generator raises as an error of its own.
    with pytest.raises(Exception, match="lost") as caught:
        update(sequential(BatchNormalization(), shape=(3,)), failing())
    assert "failed in batch 3" in "".join(caught.value.__notes__)


def test_batches_with_nan_are_skipped_in_all_layers_and_counted():
    x = data(12, 3)
    x[5, 1] = np.nan
    x[9, 0] = np.inf
    layers_ = [BatchNormalization(), BatchNormalization()]
    model = sequential(*layers_, shape=(3,))
    with pytest.warns(UserWarning, match="^2 batches were left out"):
        update(model, x, batch_size=4)
    check_moments(layers_[0], x[:4])
    assert np.isfinite(statistics(layers_[1])).all()


def test_warnings_name_the_line_of_the_call():
    model = sequential(BatchNormalization(), layers.BatchNormalization(), shape=(3,))
    with pytest.warns(UserWarning, match="statistics") as caught:
        update_population_statistics(model, np.full((4, 3), np.nan, "float32"), verbose=0)
    ours = [warning for warning in caught if "statistics" in str(warning.message)]
    assert [warning.filename for warning in ours] == [__file__] * 3


def test_nothing_but_nan_keeps_the_old_statistics():
    layer = BatchNormalization()
    with (
        pytest.warns(UserWarning, match="^1 batches were left out"),
        pytest.warns(UserWarning, match="no data reached keep their statistics: 'batch_norm"),
    ):
        update(sequential(layer, shape=(3,)), np.full((4, 3), np.nan, "float32"))
    np.testing.assert_array_equal(statistics(layer), [[0] * 3, [1] * 3])


def test_keras_layers_are_left_alone_with_a_warning():
    theirs = layers.BatchNormalization(name="theirs")
    layer = BatchNormalization()
    with pytest.warns(UserWarning, match="keep their statistics: 'theirs'.*from_keras"):
        update(sequential(theirs, layer, shape=(3,)), data(6, 3, mean=0.0))
    np.testing.assert_array_equal(statistics(theirs), [[0] * 3, [1] * 3])
    check_moments(layer, data(6, 3, mean=0.0) / np.sqrt(1 + 1e-3))


def test_layers_that_inference_never_calls_keep_theirs_with_a_warning():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.spare = BatchNormalization(), BatchNormalization(name="spare")

        def call(self, x):
            return self.used(x)

    x = data(6, 3)
    for build in (False, True):
        model = Model()
        if build:
            model(x)
        with pytest.warns(UserWarning, match="no data reached keep their statistics: 'spare'"):
            update(model, x)
        check_moments(model.used, x)


def test_a_model_that_is_compiled_again_is_looked_at_again():
    dense, layer = layers.Dense(2), BatchNormalization()
    model = sequential(dense, layer, shape=(3,))
    model.compile("sgd", "mse")
    x = data(6, 3, mean=0.0)
    update(model, x)
    dense.activation = keras.activations.relu
    model.compile(model.optimizer, "mse")
    update(model, x)
    check_moments(layer, numpy(dense(x)))


def test_errors():
    with pytest.raises(ValueError, match=r"at least one `keras_norm.BatchNorm.*1 of them Keras's"):
        update(sequential(layers.BatchNormalization(), shape=(3,)), data(6, 3))
    model = sequential(BatchNormalization(), shape=(3,))
    for passes in (0, 1.5, True, None):
        with pytest.raises(ValueError, match=f"passes={passes}"):
            update(model, data(6, 3), passes=passes)
    with pytest.raises(TypeError, match="must be a Keras model"):
        update(BatchNormalization(), data(6, 3))


@pytest.mark.parametrize("arguments", [
    {"batch_size": 0}, {"batch_size": "a"}, {"steps": -1}, {"steps": 2.0}, {"passes": 0},
])  # fmt: skip
def test_numbers_are_checked(arguments):
    (name,) = arguments
    for call in (
        lambda: update(None, data(4, 3), **arguments),
        lambda: callbacks.PopulationStatistics(data(4, 3), **arguments),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be a positive integer"):
            call()


def test_no_warnings_and_a_progress_bar(capsys):
    model = sequential(BatchNormalization(), shape=(3,))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        keras_norm.update_population_statistics(model, data(6, 3), batch_size=2, verbose=2)
    assert "3/3" in capsys.readouterr().out


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_steps_are_compiled_once_unless_the_model_runs_eagerly(run_eagerly):
    calls = []

    class Counting(layers.Layer):
        def call(self, x):
            calls.append(None)
            return x

    model = sequential(BatchNormalization(), Counting(), shape=(3,))
    model.compile()
    model.run_eagerly = run_eagerly
    for _ in range(2):
        del calls[:]
        update(model, data(40, 3), batch_size=4)
    assert len(calls) == (10 if run_eagerly or BACKEND == "torch" else 0)


if BACKEND == "tensorflow":

    @pytest.mark.parametrize("synchronized", [False, True])
    def test_mirrored_strategy(synchronized):
        from tests.replicas.on_tensorflow import strategy

        x = data(11, 3)
        with strategy().scope():
            layer = BatchNormalization(synchronized=synchronized)
            model = sequential(layer, shape=(3,))
        update(model, x, batch_size=4)
        check_moments(layer, x)
        copies = layer.moving_mean.value.values
        np.testing.assert_array_equal(*(copy.numpy() for copy in copies))


class InBranch(layers.Layer):
    def __init__(self):
        super().__init__()
        self.norm = BatchNormalization()

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x):
        return ops.cond(ops.sum(x) > -1e9, lambda: self.norm(x), lambda: x)


class InLoop(InBranch):
    def call(self, x):
        return ops.fori_loop(0, 3, lambda i, y: y + 0 * self.norm(x), x)


class InMap(InBranch):
    def call(self, x):
        return ops.map(self.norm, ops.expand_dims(x, 1))[:, 0]


class InBranchOfLoop(InBranch):
    def call(self, x):
        branch = super().call
        return ops.fori_loop(0, 2, lambda i, y: y + 0 * branch(x), x)


class Cell(InBranch):
    state_size = 3

    def call(self, x, states):
        return self.norm(x), states


class InFunction(InBranch):
    """Compiled by itself."""

    def build(self, shape):
        super().build(shape)
        self.function = compiled_by_itself(self.norm)

    def call(self, x):
        return self.function(x)


def compiled_by_itself(function):
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kind", [InBranch, InLoop, InMap, InBranchOfLoop])
def test_loops_and_branches(kind, jit_compile):
    x = data(24, 3)
    nested = kind()
    model = sequential(nested, shape=(3,))
    model.compile("sgd", "mse", jit_compile=jit_compile and BACKEND != "torch")
    for values in (x + 1, x):
        update(model, values, batch_size=5, passes=2)
        check_moments(nested.norm, values)


# With a loop in Python, Keras on PyTorch calls the first step twice.
@pytest.mark.parametrize("unroll", [True] if BACKEND == "torch" else [False, True])
def test_cell_of_an_rnn(unroll):
    x = data(24, 4, 3)
    cell = Cell()
    update(sequential(layers.RNN(cell, unroll=unroll), shape=(4, 3)), x, batch_size=5)
    check_moments(cell.norm, x)


if BACKEND != "torch":

    @pytest.mark.parametrize("is_traced_before", [False, True])
    def test_a_function_that_is_compiled_by_itself_is_seen(is_traced_before):
        x = data(6, 3)
        nested = InFunction()
        spare = BatchNormalization(name="spare")
        inputs = keras.Input((3,))
        model = WithSpare(keras.Model(inputs, nested(inputs)), spare)
        before = model.predict(x, batch_size=4, verbose=0)
        np.testing.assert_allclose(before, x / np.sqrt(1 + 1e-5), rtol=1e-6)
        if not is_traced_before:
            nested.function = compiled_by_itself(nested.norm)
            model.compile()
        for values in (x + 1, x):
            with pytest.warns(UserWarning, match="no data reached keep their statistics: 'spare'"):
                update(model, values, batch_size=4, passes=2)
            check_moments(nested.norm, values)
        if BACKEND == "tensorflow":  # a function of JAX keeps the values that it was traced with
            expected = (x - x.mean(0, "float64")) / np.sqrt(x.var(0, dtype="float64") + 1e-5)
            found = model.predict(x, batch_size=4, verbose=0)
            np.testing.assert_allclose(found, expected, atol=1e-4)


class WithSpare(keras.Model):
    """A model that has one layer that it does not call."""

    def __init__(self, used, spare):
        super().__init__()
        self.used, self.spare = used, spare
        self.spare.build((None, 3))

    def call(self, x):
        return self.used(x)


if BACKEND == "jax":

    def test_no_tracer_outlives_its_trace():
        import jax

        layer = BatchNormalization()
        model = sequential(layer, shape=(3,))
        x = data(12, 3)
        with jax.checking_leaks():
            update(model, x, batch_size=4)
        check_moments(layer, x)

    def test_data_parallel():
        import jax

        x = data(12, 3)
        distribution = keras.distribution.DataParallel(devices=jax.devices())
        with distribution.scope():
            layer = BatchNormalization()
            model = sequential(layer, shape=(3,))
            update(model, x, batch_size=4)
        check_moments(layer, x)


def test_a_transformed_function_is_refused():
    class InTransform(InBranch):
        def call(self, x):
            return ops.vectorized_map(self.norm, ops.expand_dims(x, 1))[:, 0]

    nested = InTransform()
    model = sequential(nested, shape=(3,))
    with pytest.raises(RuntimeError, match=f"cannot see the layer '{nested.norm.name}'"):
        update(model, data(6, 3))
    np.testing.assert_array_equal(statistics(nested.norm), [[0] * 3, [1] * 3])
    assert np.isfinite(model.predict(data(6, 3), verbose=0)).all()


if BACKEND == "torch":

    def test_modules_keep_the_mode_that_they_have():
        import torch

        class WithModules(keras.Model):
            def __init__(self):
                super().__init__()
                self.norm = BatchNormalization()
                self.off, self.on = torch.nn.Dropout(0.5).eval(), torch.nn.Dropout(0.5).train()

            def call(self, x):
                return self.on(self.off(self.norm(x)))

        model = WithModules()
        for _ in range(2):
            modes = [module.training for module in model.modules()]
            assert (model.off.module.training, model.on.module.training) == (False, True)
            update(model, data(6, 3))
            assert [module.training for module in model.modules()][: len(modes)] == modes


def test_channels_with_masks_of_their_own():
    x = data(8, 3, 6)
    x[:, 2] = 0
    x[::2, 1] = 0
    layer = BatchNormalization(axis=1)
    update(sequential(layers.Masking(), layer, shape=(3, 6)), x, batch_size=3)
    kept = [x[:, 0].astype("float64"), x[1::2, 1].astype("float64")]
    mean, variance = statistics(layer)
    # A channel that is all padding keeps its statistics.
    assert oracle.error(mean, np.array([*(v.mean() for v in kept), 0])) < TOLERANCE
    assert oracle.error(variance, np.array([*(v.var() for v in kept), 1])) < TOLERANCE
