"""JAX: named axes connect replicas, and `jax.jit` compiles."""

import contextlib

import jax
import keras

from keras_norm import _validation
from keras_norm.engines import groups


def total():
    """Returns the sum along the named axes of an enclosing `jax.shard_map` or `jax.pmap`.

    Under `keras.distribution`, arrays and their moments are global already.
    """
    names = jax.sharding.get_abstract_mesh().manual_axes
    if not names:
        return None
    if groups.chosen() is not None:
        unknown = [name for name in groups.chosen() if name not in names]
        if unknown:
            raise ValueError(
                f"`replica_group` names axes that the enclosing `jax.shard_map` or `jax.pmap` does "
                f"not have. Received: {unknown}, with the axes {list(names)}"
            )
        names = groups.chosen()
    return lambda x: jax.lax.psum(x, names)


def checked_group(group):
    """Returns the names of mesh axes as a tuple."""
    names = (group,) if isinstance(group, str) else group
    if not (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)):
        raise TypeError(
            "On JAX, argument `group` must be the name of a mesh axis, or a list of names. "
            f"Received: group={_validation.shown(group)}"
        )
    if not names:
        raise ValueError("Argument `group` must name at least one mesh axis. Received: group=[]")
    return tuple(names)


def gathered(function, model):
    """Returns what `function` returns in all processes."""
    value = keras.ops.convert_to_numpy(function())
    if jax.process_count() == 1:
        return value[None]
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(value)


def check_merge(model):
    """Does nothing: each process has its own model."""


def recomputing():
    """Returns False: under `jax.checkpoint`, Python runs once, to trace."""
    return False


def mode(layer, training):
    """Returns `training`; None means Keras's default."""
    return training


@contextlib.contextmanager
def scope(model):
    """Copies the weights of a running `fit` into the model's variables."""
    model.jax_state_sync()
    yield


def compiled(function, model):
    """Returns `function` under `jax.jit`, unless the model is not compiled."""
    return jax.jit(function) if model.jit_compile and not model.run_eagerly else function


def batch_function(function, model):
    """Returns `function` with the model's variables as arguments, compiled.

    No buffers are donated, so the model keeps its values if the function fails.
    """
    variables = model.variables

    def call(values, x):
        with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
            return function(x)

    call = compiled(call, model)
    return lambda x: [call([variable.value for variable in variables], x)]


def inlined():
    """Returns a context in which Python runs compiled functions, loops and branches."""
    return jax.disable_jit()


def on_replicas(function, model):
    """Returns `function`."""
    return function


def trace():
    """Returns JAX's token of the current trace."""
    # Imported here, as Keras does not import it. JAX 0.8 has it in another module.
    try:
        from jax.extend.core import get_opaque_trace_state
    except ImportError:
        from jax.core import get_opaque_trace_state
    return get_opaque_trace_state(convention="flax")


def nesting(outer):
    """Returns "none" in the trace `outer`, else "function", which values leave only as results."""
    return "none" if trace() == outer else "function"


def accumulator(shape):
    """Returns None: `nesting` is never "branch" or "loop"."""
    return None


def add_multiples(tensors, variables, factor):
    """Returns the list of `tensor + factor * variable`."""
    return [
        keras.ops.cast(factor, variable.dtype) * variable + tensor
        for tensor, variable in zip(tensors, variables, strict=True)
    ]
