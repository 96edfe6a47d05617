"""All private names of Keras that the package uses, and their purpose.

Keras may rename or drop any of them in any version, and most uses would then fail silently.
`tests/test_keras.py` checks that the installed Keras has all of them, and that the package uses no
others. `keras_norm.optimizers.hooks` checks the names of optimizers each time an optimizer is
built, and `check_models` checks the others before a model is walked or copied.
"""

import concurrent.futures
import functools

import keras

# The first two numbers of the installed version.
VERSION = tuple(map(int, keras.__version__.split(".")[:2]))

# The methods of an optimizer that Keras calls and `keras_norm.optimizers` overrides.
HOOKS = {
    "_backend_apply_gradients": "adds the L2 term, before clipping and accumulation",
    "_apply_weight_decay": "decoupled weight decay, at each variable's rate and factor",
    "_get_current_learning_rate": "the rate that weight decay and Muon read",
    "_update_model_variables_moving_average": "the average of a variable that does not change",
    "update_step": "updates one variable (public)",
}
# PyTorch's optimizers have this method in place of `update_step`.
PARALLEL_HOOK = {"_parallel_update_step": "updates many variables at once on PyTorch"}

OPTIMIZER = HOOKS | {
    "_check_variables_are_known": "refuses the variables of another model",
    "_get_variable_index": "a variable's position among those the optimizer was built on",
    "_iterations": "the step count that schedules of the inner optimizer receive",
    "_model_variables_moving_average": "averages of the variables (`use_ema`)",
    "_trainable_variables": "the variables that the optimizer was built on",
    "_trainable_variables_indices": "updated when a model is copied",
    "_untrack_variable": "drops the state of variables that are no longer trained",
    "_use_weight_decay": "whether the inner optimizer excludes a variable from decay",
    "_var_key": "an optimizer's key of a variable, updated when a model is copied",
}
# On some backends only.
OPTIMIZER_OF_BACKEND = PARALLEL_HOOK | {
    "_distribution_strategy": "how many replicas share a penalty on TensorFlow",
}
RMSPROP = {
    "_velocities": "moving averages of the squared gradients, for MATLAB's variant",
}
MUON = {
    "_should_use_adamw": "which weight decay of Muon a variable has",
}
MODEL = {
    "_compile_config": "whether and how a model was compiled",
    "_compile_loss": "left out of copies",
    "_compile_metrics": "left out of copies",
    "_flatten_layers": "all layers of a model, also within layers that are not models",
    "_layers": "layers that are attributes of an object",
    "_loss_tracker": "left out of copies",
    "_nodes": "the calls of a functional model",
    "_nodes_by_depth": "the calls of a functional model, ordered",
}
# On some backends, in some versions, or after training only.
MODEL_AT_TIMES = {
    "_compiled_trainable_state": "left out of copies",
    "_eval_epoch_iterator": "left out of copies",
    "_jax_state": "left out of copies",
    "_torch_params": "parameters of a model's PyTorch module, replaced in copies",
    "_track_variables": "makes the parameters of a copy's PyTorch module",
}
LAYER = {
    "_inbound_nodes": "the calls of a layer",
    "_outbound_nodes": "the calls that read a layer's outputs",
    "_trainable_variables": "a layer's own parameters, frozen or not",
}
TENSOR = {
    "_keras_history": "the call that a symbolic tensor comes from",
    "_keras_mask": "the mask that a tensor carries",
    "_value": "a variable's array, replaced in copies; None where a failed `fit` lost it (JAX)",
}


def apart(function, *arguments):
    """Calls a function in a separate thread.

    Scopes, traces, strategies, devices and the counters of automatic names belong to a thread, so
    the function neither sees nor changes those of the caller.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result()


@functools.cache
def check_models():
    """Checks, once in a process, that models, layers and tensors have their private names.

    Raises:
        RuntimeError: If they do not; the message names Keras's version.
    """
    missing = apart(_missing)
    if missing:
        raise outdated(
            f"its models lack {', '.join(f'`{name}`' for name in missing)}, which keras_norm needs "
            "to walk and copy models"
        )


def _missing():
    tensor = keras.Input((1,))
    layer = keras.layers.Masking()
    model = keras.Model(tensor, layer(tensor))
    model.compile(loss="mse")
    objects = (model, MODEL), (layer, LAYER), (model.output, TENSOR), (keras.Variable(0.0), TENSOR)
    lacking = [{name for name in names if not hasattr(x, name)} for x, names in objects]
    # Symbolic tensors have some names of `TENSOR`, variables the others.
    return sorted(lacking[0] | lacking[1] | (lacking[2] & lacking[3]))


def outdated(what):
    """Returns the error for a version of Keras that the package cannot use."""
    return RuntimeError(
        f"Keras {keras.__version__} does not work with this version of keras_norm: {what}. "
        "Install a newer keras_norm, or a Keras from 3.13 to 3.15."
    )
