"""TensorFlow: `tf.distribute` connects replicas, and `tf.function` compiles."""

import contextlib

import keras
import tensorflow as tf
from tensorflow.python.ops.control_flow_v2_func_graphs import (
    CondBranchFuncGraph,
    WhileBodyFuncGraph,
    WhileCondFuncGraph,
)

from keras_norm import _validation

# The name scope in which `tf.vectorized_map` calls its function.
_VECTORIZED = "loop_body"


def total():
    """Returns the sum over the replicas of the `tf.distribute` strategy that runs this call."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return lambda x: context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def checked_group(group):
    """Raises an error: a strategy has one group of replicas."""
    raise NotImplementedError(
        "`replica_group` is for PyTorch and JAX. On TensorFlow the replicas are those of the "
        "`tf.distribute` strategy that the model was created in: create a strategy with these "
        f"devices. Received: group={_validation.shown(group)}"
    )


def gathered(function, model):
    """Returns what `function` returns on all replicas of the model's strategy, in all processes."""
    strategy = model.distribute_strategy

    # Outside of a `tf.function`, strategies are slow, and warn about it.
    @tf.function
    def gather():
        return strategy.gather(strategy.run(lambda: tf.expand_dims(function(), 0)), axis=0)

    return keras.ops.convert_to_numpy(gather())


def check_merge(model):
    """Raises an error if the model's strategy connects processes: they run every batch together."""
    if isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise NotImplementedError(
            "A model of a `tf.distribute.MultiWorkerMirroredStrategy` has the statistics of the "
            "data of all processes without `merge_replicas`: pass the same data in all processes, "
            "and the strategy gives each its part. Received: merge_replicas=True and the model "
            f"'{model.name}'"
        )


def recomputing():
    """Returns False: `tf.recompute_grad` does not mark the calls that it repeats."""
    return False


def mode(layer, training):
    """Returns `training`; None means Keras's default."""
    return training


def scope(model):
    """Returns the scope of the strategy that the model was created in."""
    return model.distribute_strategy.scope()


def compiled(function, model):
    """Returns `function` under `tf.function`, unless the model is not compiled."""
    if model.run_eagerly:
        return function
    return tf.function(function, reduce_retracing=True, jit_compile=model.jit_compile)


def batch_function(function, model):
    """Returns `function` run on every replica of the model's strategy, compiled."""
    strategy = model.distribute_strategy

    def call(x):
        with keras.StatelessScope():
            return tf.expand_dims(function(x), 0)

    run = compiled(lambda x: strategy.run(call, args=(x,)), model)

    def parts(x):
        return tf.unstack(strategy.gather(run(x), axis=0), strategy.num_replicas_in_sync)

    if not model.run_eagerly:
        parts = tf.function(parts, reduce_retracing=True)
    return lambda x: parts(keras.tree.map_structure(_without_optional, x))


@contextlib.contextmanager
def inlined():
    """Runs the functions of `tf.function` in Python."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def on_replicas(function, model):
    """Returns `function` run on every replica of the model's strategy, not compiled."""
    strategy = model.distribute_strategy
    return lambda x: strategy.run(function, args=(keras.tree.map_structure(_without_optional, x),))


def trace():
    """Returns the graph that is being built; None outside of graphs."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def nesting(outer):
    """Returns how the graph being built is nested in the graph `outer`.

    The graph of a `tf.function` counts as "function": TensorFlow keeps it for later calls. So does
    `tf.vectorized_map`, which traces its function in the surrounding graph, for one element, and
    rewrites the result.
    """
    graph = trace()
    found = "none"
    while True:
        if graph is not None and _VECTORIZED in graph.get_name_scope():
            return "function"
        if graph is outer:
            return found
        if isinstance(graph, WhileBodyFuncGraph | WhileCondFuncGraph):
            found = "loop"
        elif not isinstance(graph, CondBranchFuncGraph):
            return "function"
        elif found == "none":
            found = "branch"
        graph = graph.outer_graph


def accumulator(shape):
    """Returns a variable that `keras.StatelessScope` does not see."""
    return tf.Variable(
        tf.zeros(shape),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def add_multiples(tensors, variables, factor):
    """Returns the list of `tensor + factor * variable`, dense even if a tensor is sparse."""
    return [
        tf.cast(factor, variable.dtype) * variable + tensor
        for tensor, variable in zip(tensors, variables, strict=True)
    ]


def _without_optional(x):
    """Returns None for an empty optional, which stands for None in a `tf.data.Dataset`."""
    return None if isinstance(x, tf.experimental.Optional) else x
