import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from tests import replicas

ENGINES = ("shard_map", "pmap")


def run(cases, folder):
    return [_run(case) for case in cases]


def _run(case):
    # JAX takes equal shards only: masks make them unequal.
    longest = max(len(x) for x in case.inputs)
    x, upstream, mask = (
        np.stack([np.pad(a, [(0, longest - len(a))] + [(0, 0)] * (a.ndim - 1)) for a in arrays])
        for arrays in (case.inputs, case.upstream, case.masks)
    )
    layer = replicas.make_layer(case)
    others = [v.value for v in layer.non_trainable_variables]

    def local(trainable, x, mask):
        y, moved = layer.stateless_call(trainable, others, x, training=True, mask=mask)
        return y, tuple(moved)

    if case.engine == "pmap":
        function = jax.pmap(local, axis_name="replica", in_axes=(None, 0, 0))
    else:
        shards = PartitionSpec("replica")
        function = jax.shard_map(
            lambda trainable, x, mask: jax.tree.map(
                lambda a: a[None], local(trainable, x[0], mask[0])
            ),
            mesh=Mesh(np.array(jax.devices()), ("replica",)),
            in_specs=(PartitionSpec(), shards, shards),
            out_specs=shards,
        )

    def both(trainable, x):
        y, pullback, moved = jax.vjp(
            lambda trainable, x: function(trainable, x, mask), trainable, x, has_aux=True
        )
        return y, pullback(upstream), moved

    trainable = [layer.gamma.value, layer.beta.value]
    compiled = jax.jit(both).lower(trainable, x).compile()
    y, ((to_gamma, to_beta), to_x), (means, variances, *_) = compiled(trainable, x)
    # JAX writes down several reductions on the way back, and XLA makes them one.
    messages = compiled.as_text().count(" all-reduce(")
    lengths = [len(x) for x in case.inputs]
    return replicas.Result(
        [np.asarray(a)[:n] for a, n in zip(y, lengths, strict=True)],
        [np.asarray(a)[:n] for a, n in zip(to_x, lengths, strict=True)],
        *(np.asarray(a) for a in (to_gamma, to_beta, means, variances)),
        messages,
    )
