"""The choice of the replicas that share statistics."""

from keras_norm import engines
from keras_norm.engines import groups


def replica_group(group):
    """Returns a context that restricts statistics to a group of replicas.

    In the context, layers with `synchronized=True`, `update_population_statistics` with
    `merge_replicas=True` and `merge_moving_statistics` use only the replicas of the group. Layers
    do not store the group: their configs and files do not change.

    Use it for jobs that split both the data and the model. Processes with parts of one model
    process the same samples; only the processes along the data axis have different samples. Wrap
    all of the training in the context, including backward passes: a forward pass that
    `torch.utils.checkpoint` repeats reads the group again.

    On TensorFlow there is no such group: the replicas are those of the `tf.distribute` strategy.

    Args:
        group: On PyTorch, a process group of `torch.distributed` or a `DeviceMesh` with one
            dimension. On JAX, the name of an axis of the enclosing `jax.shard_map` or `jax.pmap`,
            or a list of names; outside of these it has no effect.

    Raises:
        TypeError: If the group is of another type.
        ValueError: If a list of names is empty. On JAX, when a layer is called, if the enclosing
            `jax.shard_map` or `jax.pmap` does not have such an axis.
        NotImplementedError: On TensorFlow.

    Example:
    On PyTorch, with four processes, where each model is split between two::

        mesh = torch.distributed.init_device_mesh("cuda", (2, 2), mesh_dim_names=("data", "model"))
        with keras_norm.replica_group(mesh["data"]):
            model.fit(x, y)

    On JAX::

        step = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=..., out_specs=...))
        with keras_norm.replica_group("data"):
            for batch in data:
                state = step(state, batch)

    JAX reads the group when a step is traced: make the first call in the context, and another step
    for another group.

    Reference:
        Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using model
        parallelism", 2019, https://arxiv.org/abs/1909.08053, on data-parallel groups of processes
    """
    return groups.choose(engines.checked_group(group))
