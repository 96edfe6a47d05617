"""Statistics of several processes: each has its own part of the data."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_norm
from keras_norm import BatchNormalization, callbacks
from keras_norm.engines import groups
from tests import oracle
from tests.gradients import numpy
from tests.replicas import processes

BACKEND = keras.backend.backend()
TOLERANCE = 2e-6


def data(*shape, mean=500.0, seed=0):
    return (mean + np.random.default_rng(seed).standard_normal(shape)).astype("float32")


def model_with(*norms):
    return keras.Sequential([keras.Input((3,)), *norms])


def check_moments(layer, values):
    _, mean, variance = oracle.normalize(values, [0])
    assert oracle.error(layer.moving_mean, mean.ravel()) < TOLERANCE
    assert oracle.error(layer.moving_variance, variance.ravel()) < TOLERANCE


def update(model, x, **arguments):
    keras_norm.update_population_statistics(
        model, x, batch_size=2, verbose=0, merge_replicas=True, **arguments
    )


class Messages:
    """Counts the messages between processes."""

    def __init__(self):
        self.count = 0
        if BACKEND == "torch":
            from torch import distributed as place

            names = "all_gather", "all_reduce"
        else:
            from jax.experimental import multihost_utils as place

            names = ("process_allgather",)
        for name in names:
            setattr(place, name, self._counting(getattr(place, name)))

    def _counting(self, function):
        def counting(*arguments, **options):
            self.count += 1
            return function(*arguments, **options)

        return counting


class Failing(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index == 1:
            raise OSError("lost")
        return (data(2, 3),)


def _on_two_processes(rank, _, folder):
    messages = Messages()
    x = data(11, 3, mean=3.0)

    # Uneven parts, and layers that would wait for each other's batches if they were synchronized.
    norms = [BatchNormalization(synchronized=True), BatchNormalization()]
    model = model_with(norms[0], layers.ReLU(), norms[1])
    update(model, (x[:8], x[8:])[rank])
    check_moments(norms[0], x)
    assert messages.count == 1
    update(model, (x[:8], x[8:])[rank], passes=2)
    assert messages.count == 3
    mean, variance = x.mean(0, "float64"), x.var(0, dtype="float64")
    check_moments(norms[1], np.maximum((x - mean) / np.sqrt(variance + 1e-5), 0))

    # A part that is empty, and all parts.
    norm = BatchNormalization()
    model = model_with(norm)
    update(model, (x, x[:0])[rank])
    check_moments(norm, x)
    with pytest.raises(ValueError, match="at least one batch"):
        update(model, x[:0])
    check_moments(norm, x)

    # A failure in one process is one in all of them.
    error, text = ((OSError, "lost"), (RuntimeError, r"failed in the processes of ranks \[0\]"))[
        rank
    ]
    with pytest.raises(error, match=text):
        update(model, Failing() if rank == 0 else x)
    check_moments(norm, x)
    update(model, x[rank::2])
    check_moments(norm, x)

    # The callback, and the cheap way.
    norm = BatchNormalization(momentum=0.0)
    model = model_with(norm)
    model.compile(loss="mse")
    own = (x[:6], x[5:])[rank]
    merged = callbacks.MergeMovingStatistics()
    model.fit(own, own, batch_size=6, shuffle=False, callbacks=[merged], verbose=0)
    check_moments(norm, np.concatenate([x[:6], x[5:]]))
    every = callbacks.PopulationStatistics(own, verbose=0, merge_replicas=True)
    model.fit(own, own, batch_size=6, callbacks=[every], verbose=0)
    check_moments(norm, np.concatenate([x[:6], x[5:]]))


def _on_three_processes(rank, _, folder):
    """Each process alone in a group, and two of them in another, which the third is not in."""
    from torch import distributed

    parts = data(3, 4, 3, mean=3.0)
    alone = [distributed.new_group([each]) for each in range(3)][rank]
    pair = distributed.new_group([0, 1])

    class Mesh:
        def get_group(self):
            return alone

    def check(members):
        """Checks all that a group decides; returns the outputs and inputs of a training step."""
        x = parts[members].reshape(-1, 3)
        norm = BatchNormalization(synchronized=True, momentum=0.0)
        inputs = keras.ops.convert_to_tensor(parts[rank]).requires_grad_()
        outputs = norm(inputs, training=True)
        check_moments(norm, x)
        expected = oracle.normalize(x, [0])[0].reshape(-1, 4, 3)[members.index(rank)]
        assert oracle.error(outputs.detach(), expected) < TOLERANCE
        norm = BatchNormalization(momentum=0.0)
        model = model_with(norm)
        norm(parts[rank], training=True)
        keras_norm.merge_moving_statistics(model)
        check_moments(norm, x)
        update(model, parts[rank])
        check_moments(norm, x)
        return outputs, inputs

    for group in (alone, Mesh()):
        with keras_norm.replica_group(group):
            check([rank])
    if rank in (0, 1):
        with keras_norm.replica_group(pair):
            with keras_norm.replica_group(alone):
                pass
            outputs, inputs = check([0, 1])
        # The group of the forward pass is that of the backward pass.
        upstream = data(2, 4, 3, mean=0.0, seed=1)
        with keras_norm.replica_group(alone):
            outputs.backward(keras.ops.convert_to_tensor(upstream[rank]))
        x = parts[:2].reshape(-1, 3)
        expected, _, _, scale = oracle.gradients(x, [0], upstream.reshape(-1, 3))
        assert oracle.error(inputs.grad, expected.reshape(-1, 4, 3)[rank], scale) < TOLERANCE
    check([0, 1, 2])


if BACKEND != "tensorflow":

    @pytest.mark.slow
    def test_two_processes(tmp_path):
        processes.spawn(_on_two_processes, None, tmp_path)


if BACKEND == "torch":

    @pytest.mark.slow
    def test_groups_of_processes(tmp_path):
        processes.spawn(_on_three_processes, None, tmp_path, size=3)


def test_alone_nothing_changes():
    x = data(7, 3)
    norm = BatchNormalization(moving_mean_initializer=[0.1, 0.2, 0.3])
    model = model_with(norm)
    before = numpy(norm.moving_mean), numpy(norm.moving_variance)
    keras_norm.merge_moving_statistics(model)
    np.testing.assert_array_equal((numpy(norm.moving_mean), numpy(norm.moving_variance)), before)
    update(model, x)
    check_moments(norm, x)
    with pytest.raises(ValueError, match="at least one batch"):
        update(model, x[:0])


def test_errors():
    model = keras.Sequential([BatchNormalization()])
    with pytest.raises(ValueError, match=r"merge_replicas=True and the model .* is not built"):
        update(model, data(4, 3))
    with pytest.raises(TypeError, match="merge_replicas"):
        keras_norm.update_population_statistics(model, data(4, 3), merge_replicas=2)
    with pytest.raises(TypeError, match="must be a Keras model"):
        keras_norm.merge_moving_statistics(BatchNormalization())
    with pytest.raises(ValueError, match="at least one"):
        keras_norm.merge_moving_statistics(model_with())


if BACKEND == "tensorflow":

    def test_a_strategy_has_one_group():
        with pytest.raises(NotImplementedError, match=r"tf.distribute.*group='data'"):
            keras_norm.replica_group("data")

else:

    @pytest.mark.parametrize("group", [3, None, [3]])
    def test_groups_of_a_wrong_type(group):
        with pytest.raises(TypeError, match=r"`group` must be .*Received: group="):
            keras_norm.replica_group(group)


def test_contexts_of_two_threads_may_end_in_any_order():
    first, second = groups.choose("first"), groups.choose("second")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert groups.chosen() == "second"
    second.__exit__(None, None, None)
    assert groups.chosen() is None


if BACKEND == "jax":

    @pytest.mark.parametrize("group", ["data", ["data"], ["data", "model"]])
    def test_axes_of_the_group_are_summed_over(group):
        import jax
        from jax.sharding import Mesh, PartitionSpec

        mesh = Mesh(np.array(jax.devices()[:2]).reshape(1, 2), ("data", "model"))
        layer = BatchNormalization(synchronized=True)
        layer.build((None, 3))
        variables = [
            [v.value for v in vs]
            for vs in (layer.trainable_variables, layer.non_trainable_variables)
        ]
        x = data(8, 3)

        def local(x):
            return layer.stateless_call(*variables, x, training=True)[0]

        def run():
            spec = PartitionSpec(("data", "model"))
            return jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)(x)

        with keras_norm.replica_group(group):
            found = run()
        parts = [x] if "model" in group else [x[:4], x[4:]]
        expected = np.concatenate([oracle.normalize(part, [0])[0] for part in parts])
        assert oracle.error(found, expected) < TOLERANCE
        with (
            keras_norm.replica_group("rows"),
            pytest.raises(ValueError, match=r"names axes .*\['rows'\]"),
        ):
            run()
        with keras_norm.replica_group("rows"):  # no effect outside of `shard_map`
            layer(x, training=True)

    def test_a_group_without_names():
        with pytest.raises(ValueError, match="at least one mesh axis"):
            keras_norm.replica_group([])


if BACKEND == "tensorflow":

    def _on_two_workers(rank, _, folder):
        import tensorflow as tf

        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        assert strategy.num_replicas_in_sync == 2
        x = data(11, 3, mean=3.0)
        own = (x[:8], x[8:])[rank]
        upstream = np.random.default_rng(1).standard_normal(x.shape).astype("float32")

        def train(norm):
            def step(inputs, upstream):
                with tf.GradientTape() as tape:
                    tape.watch(inputs)
                    outputs = norm(inputs, training=True)
                return outputs, tape.gradient(outputs, inputs, upstream)

            parts = own, (upstream[:8], upstream[8:])[rank]
            return tf.function(lambda *args: strategy.run(step, args))(*map(tf.constant, parts))

        with strategy.scope():
            norms = [BatchNormalization(synchronized=s, momentum=0.0) for s in (True, False)]
            model = model_with(*norms)
        outputs, to_inputs = train(norms[0])
        check_moments(norms[0], x)
        rows = slice(8) if rank == 0 else slice(8, None)
        assert oracle.error(outputs, oracle.normalize(x, [0])[0][rows]) < TOLERANCE
        expected, _, _, scale = oracle.gradients(x, [0], upstream)
        assert oracle.error(to_inputs, expected[rows], scale) < TOLERANCE

        # The cheap way: both have the same weight.
        train(norms[1])
        means, variances = (
            np.stack([getattr(part, name)(0, dtype="float64") for part in (x[:8], x[8:])])
            for name in ("mean", "var")
        )
        assert oracle.error(norms[1].moving_mean, means[rank]) < TOLERANCE
        keras_norm.merge_moving_statistics(model)
        assert oracle.error(norms[1].moving_mean, means.mean(0)) < TOLERANCE
        merged = (variances + (means - means.mean(0)) ** 2).mean(0)
        assert oracle.error(norms[1].moving_variance, merged) < TOLERANCE

        # The strategy gives each process its part of the data, which all of them have.
        keras_norm.update_population_statistics(model, x, batch_size=4, verbose=0)
        check_moments(norms[0], x)
        with pytest.raises(NotImplementedError, match="MultiWorkerMirroredStrategy"):
            update(model, own)
        check_moments(norms[0], x)

    @pytest.mark.slow
    def test_two_workers(tmp_path):
        processes.spawn(_on_two_workers, None, tmp_path)

    def test_mirrored_moving_statistics_are_merged():
        from tests.replicas.on_tensorflow import strategy

        with strategy().scope():
            norm = BatchNormalization(momentum=0.0)
            model = model_with(norm)
            model.compile(loss="mse")
        x = data(8, 3, mean=3.0)
        x[4:] += 3
        model.fit(x, x, batch_size=8, shuffle=False, verbose=0)
        keras_norm.merge_moving_statistics(model)
        check_moments(norm, x)
        for variable in (norm.moving_mean, norm.moving_variance):
            np.testing.assert_array_equal(*(copy.numpy() for copy in variable.value.values))
        update(model, x)
        check_moments(norm, x)
