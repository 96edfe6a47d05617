import functools
from unittest import mock

import numpy as np
import tensorflow as tf

from tests import replicas

ENGINES = ("tf.function", "eager")


@functools.cache
def strategy():
    """Returns the only strategy: a second one would reuse the keys of the first one's messages."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def run(cases, folder):
    return [_run(case) for case in cases]


def _run(case):
    mirrored = strategy()
    with mirrored.scope():
        layer = replicas.make_layer(case)

    def shards(arrays):
        return mirrored.experimental_distribute_values_from_function(
            lambda context: tf.constant(arrays[context.replica_id_in_sync_group])
        )

    def step(x, mask, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
        sources = [x, layer.gamma.value, layer.beta.value]
        return y, *tape.gradient(y, sources, upstream)

    def run_step(*arguments):
        return mirrored.run(step, args=arguments)

    if case.engine == "tf.function":
        run_step = tf.function(run_step)
    real = tf.distribute.ReplicaContext.all_reduce
    with mock.patch.object(
        tf.distribute.ReplicaContext, "all_reduce", autospec=True, side_effect=real
    ) as all_reduce:
        results = run_step(*(shards(a) for a in (case.inputs, case.masks, case.upstream)))
    y, to_x, to_gamma, to_beta = (
        [np.asarray(a) for a in mirrored.experimental_local_results(values)] for values in results
    )
    means, variances = (
        [np.asarray(a) for a in mirrored.experimental_local_results(v.value)]
        for v in (layer.moving_mean, layer.moving_variance)
    )
    return replicas.Result(
        y, to_x, sum(to_gamma), sum(to_beta), means, variances, all_reduce.call_count / 2
    )
