"""Which replicas train together."""

from keras_norm import engines
from keras_norm.engines import groups


def replica_group(group):
    """Returns a context in which a group of replicas takes the place of all replicas.

    In the context, layers with `synchronized=True`, `update_population_statistics` with
    `merge_replicas=True` and `merge_moving_statistics` use the replicas of the group. Layers do
    not know the group: their configs and files are the same as without it.

    Jobs that split both the data and the model need it. Processes that hold parts of one model see
    the same samples, and only the processes along the data axis have a batch to share. Enter the
    context around the whole of the training, backward passes included: a forward pass that
    `torch.utils.checkpoint` repeats looks for the group again.

    On TensorFlow there is no such group: the replicas are those of the `tf.distribute` strategy.

    Args:
        group: On PyTorch, a process group of `torch.distributed` or a `DeviceMesh` with one
            dimension. On JAX, the name of an axis of the enclosing `jax.shard_map` or `jax.pmap`,
            or a list of names; outside of these it has no effect.

    Raises:
        TypeError: If the group is of another type.
        ValueError: If there are no names in it; and on JAX when a layer is called, if the
            enclosing `jax.shard_map` or `jax.pmap` does not have such an axis.
        NotImplementedError: On TensorFlow.

    Example:
    On PyTorch, with four processes, of which two hold parts of one model::

        mesh = torch.distributed.init_device_mesh("cuda", (2, 2), mesh_dim_names=("data", "model"))
        with keras_norm.replica_group(mesh["data"]):
            model.fit(x, y)

    On JAX::

        with keras_norm.replica_group("data"):
            step = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=..., out_specs=...))

    Reference:
        Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using model
        parallelism", 2019, https://arxiv.org/abs/1909.08053, on data-parallel groups of processes
    """
    return groups.choose(engines.checked_group(group))
