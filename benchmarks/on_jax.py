"""Steps on JAX, under jit."""

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import rows

# A step that runs in another thread takes up to 0.03 ms longer, at random.
jax.config.update("jax_cpu_enable_async_dispatch", False)

MODES = ("jit",)
COMPILES_LAYERS = False
VERSION = f"jax {jax.__version__}"


def use_threads(number):
    """Returns the number of threads as text; the benchmark cannot choose it."""
    return ""


def tensor(values, dtype, mode):
    return jnp.asarray(values, dtype)


def finish(result):
    """Waits for a result."""
    jax.block_until_ready(result)


def device_name():
    """Returns the name of the device that is measured."""
    return jax.devices()[0].device_kind


def layer_step(layer, x, gradient, step, mode, mask=None):
    """Returns a function that runs a step of a layer."""
    state = [v.value for v in layer.non_trainable_variables]
    parameters = [v.value for v in layer.trainable_variables]
    options = call_options(layer, step == "training", mask)

    def forward(parameters, x, state):
        return layer.stateless_call(parameters, state, x, **options)

    run = step_of(forward, step != "inference")
    return lambda: run(parameters, x, gradient, state)


def program(layer, shape, dtype, step, masked):
    """Returns the program of a step on a card of NVIDIA, in HLO's text."""
    parameters = [v.value for v in layer.trainable_variables]
    state = [v.value for v in layer.non_trainable_variables]
    x = jax.ShapeDtypeStruct(shape, dtype)
    mask = jax.ShapeDtypeStruct(shape[:2], bool) if masked else None

    def forward(parameters, x, state):
        values, mask = state
        options = call_options(layer, step == "training", mask)
        return layer.stateless_call(parameters, values, x, **options)

    traced = step_of(forward, step != "inference").trace(parameters, x, x, (state, mask))
    return traced.lower(lowering_platforms=("cuda",)).as_text("hlo")


def call_options(layer, training, mask):
    """Returns the options of a call of a layer."""
    options = {"training": training} if isinstance(layer, rows.BATCH_LAYERS) else {}
    return options if mask is None else options | {"mask": mask}


def native_step(name, options, x, gradient, training, mode):
    """Returns a function that runs a step of the backend's own operation, or None."""
    module = NATIVE[name](x, **options) if name in NATIVE else None
    if module is None:
        return None
    if training:
        module.train()
    else:
        module.eval()
    graph, parameters, state = nnx.split(module, nnx.Param, ...)

    def forward(parameters, x, state):
        module = nnx.merge(graph, parameters, state, copy=True)
        y = module(x)
        return y, nnx.state(module, nnx.BatchStat)

    step = step_of(forward, training)
    return lambda: step(parameters, x, gradient, state)


def copy(x, mode):
    """Returns a function that copies the input."""
    negative = jax.jit(jnp.negative)
    return lambda: negative(x)


def step_of(forward, with_gradients):
    """Returns a step of a function of parameters, input and state."""

    @jax.jit
    def train(parameters, x, gradient, state):
        y, vjp, state = jax.vjp(lambda p, x: forward(p, x, state), parameters, x, has_aux=True)
        return y, state, vjp(gradient)

    @jax.jit
    def infer(parameters, x, gradient, state):
        return forward(parameters, x, state)[0]

    return train if with_gradients else infer


def _batch(x, axis):
    return nnx.BatchNorm(x.shape[axis], axis=axis, momentum=0.9, **_options(x))


def _group(x, groups, axis):
    if axis != -1:
        return None
    groups = x.shape[-1] if groups == -1 else groups
    return nnx.GroupNorm(x.shape[-1], groups, **_options(x))


def _layer(x):
    return nnx.LayerNorm(x.shape[-1], **_options(x))


def _layer_all(x, **_):
    axes = tuple(range(1, x.ndim))
    return nnx.LayerNorm(x.shape[-1], reduction_axes=axes, feature_axes=-1, **_options(x))


def _options(x):
    return {"epsilon": 1e-5, "dtype": x.dtype, "rngs": nnx.Rngs(0)}


def _instance(x):
    return nnx.InstanceNorm(x.shape[-1], **_options(x))


def _rms(x):
    return nnx.RMSNorm(x.shape[-1], **_options(x))


NATIVE = {
    "batch": _batch,
    "group": _group,
    "instance": _instance,
    "layer": _layer,
    "layer_all": _layer_all,
    "rms": _rms,
}


def memory(make, policy, x, mask):
    """Returns what a training step keeps for its backward pass, in inputs."""
    layer = make(dtype=policy)
    layer.build(x.shape)
    state = [v.value for v in layer.non_trainable_variables]
    parameters = [v.value for v in layer.trainable_variables]
    options = call_options(layer, True, mask)

    def forward(parameters, x):
        return layer.stateless_call(parameters, state, x, **options)

    _, vjp, _ = jax.vjp(forward, parameters, x, has_aux=True)
    kept = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(vjp)}
    return {"kept": sum(kept.values()) / x.nbytes}
