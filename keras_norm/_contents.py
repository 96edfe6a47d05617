"""The contents of a model: the objects that belong to it.

Keras keeps more objects than that: every layer that was ever an attribute, every graph that a
Sequential ever had, and for each layer all of its calls in any graph. An object belongs to a model
if attributes lead from the model to the object now; a call belongs to it if one of its graphs
contains the call. A popped layer, or one whose attribute was replaced, does not belong to a model.
All code that walks a model uses this module.
"""

import collections
import enum
import functools
import sys
import types

import keras
import numpy as np

from keras_norm import _keras

_SHARED_PACKAGES = {*sys.stdlib_module_names, "jax", "jaxlib", "ml_dtypes", "numpy", "tensorflow"}
CALLABLES = types.FunctionType | types.MethodType | functools.partial
_STATEFUL = (
    keras.KerasTensor,
    keras.Operation,
    keras.Variable,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
)
# Attributes that `compile` and `fit` add to a model, those that they change with their old values,
# and the lists in which TensorFlow repeats some attributes.
_ADDED_BY_TRAINING = (
    *("optimizer", "history", "_compile_config", "_compiled_trainable_state"),
    *("_eval_epoch_iterator", "_jax_state"),
)
_CHANGED_BY_TRAINING = {
    "compiled": False,
    **dict.fromkeys(("loss", "_compile_loss", "_compile_metrics", "_loss_tracker")),
    **dict.fromkeys(("train_function", "test_function", "predict_function")),
}
_LISTED_BY_TENSORFLOW = (
    "_self_unconditional_checkpoint_dependencies",
    "_self_unconditional_dependency_names",
)
# Lists of Keras and TensorFlow that still contain removed objects, and attributes that lead from a
# layer or tensor to calls in other graphs.
_KEPT_FOREVER = ("_layers", "_tracked", "_self_unconditional_deferred_dependencies")
_CALLS = ("_inbound_nodes", "_outbound_nodes", "_keras_history")
_NOT_FOLLOWED = {*_KEPT_FOREVER, *_LISTED_BY_TENSORFLOW, *_CALLS}


def contents(root):
    """Yields `root` and everything that belongs to it.

    A call of a layer (a node of a graph) counts only if a graph of a model in `root` contains it:
    other models that share a layer are not part of `root`.
    """
    _keras.check_models()
    seen = {}
    todo = collections.deque([root])
    while todo:
        x = todo.popleft()
        if id(x) not in seen and not is_shared(x):
            seen[id(x)] = x
            yield x
            todo.extend(_parts(x))


def layers_of(model):
    """Returns the layers that belong to a model, including the model, in Keras's order."""
    belonging = {id(x) for x in contents(model)}
    return [layer for layer in model._flatten_layers() if id(layer) in belonging]


def is_shared(x):
    """Returns whether a copy shares `x` with the original."""
    if isinstance(x, list | tuple | dict | set | frozenset | CALLABLES):
        return False
    if isinstance(x, keras.Variable) or is_variable_of_backend(x):
        return False
    if type(x).__module__.partition(".")[0] in _SHARED_PACKAGES or isinstance(x, enum.Enum | type):
        return True
    return isinstance(x, np.ndarray) or keras.ops.is_tensor(x) or not attributes(x)


def is_variable_of_backend(x):
    """Returns whether `x` is a variable of TensorFlow or a parameter of PyTorch."""
    tensorflow, torch = sys.modules.get("tensorflow"), sys.modules.get("torch")
    return (tensorflow is not None and isinstance(x, tensorflow.Variable)) or (
        torch is not None and isinstance(x, torch.nn.Parameter)
    )


def has_state(x):
    """Returns whether `x` contains layers, variables or other state."""
    return any(isinstance(y, _STATEFUL) or is_variable_of_backend(y) for y in contents(x))


def _parts(x):
    """Returns the objects that `x` refers to."""
    if is_variable_of_backend(x) or is_tracker(x):
        return []
    if isinstance(x, types.MethodType):
        return [x.__func__, x.__self__]
    parts = [value for name, value in attributes(x).items() if name not in _NOT_FOLLOWED]
    if isinstance(x, keras.Sequential):
        parts += x._layers  # in a Sequential, the current layers
    if isinstance(x, functools.partial):
        parts += [x.func, *x.args, *x.keywords.values()]
    elif isinstance(x, types.FunctionType):
        cells = [value for cell in x.__closure__ or () for value in cell_contents(cell)]
        parts += [*cells, x.__defaults__, x.__kwdefaults__]
    elif isinstance(x, dict):
        parts += [*x.keys(), *x.values()]
    elif isinstance(x, list | tuple | set | frozenset):
        parts += list(x)
    return parts


def is_tracker(x):
    """Returns whether `x` is Keras's list of everything that was ever an attribute of a layer."""
    return {"stored_ids", "config"} <= attributes(x).keys()


def attributes(x):
    """Returns the attributes of `x` itself, including slots, as a dictionary.

    For a model, these are the attributes before `compile`.
    """
    state = {} if is_proxy(x) else object.__getstate__(x)
    if isinstance(state, tuple):
        return {name: value for part in state if part for name, value in part.items()}
    return _untrained(state) if isinstance(x, keras.Model) else state or {}


def _untrained(attributes):
    """Returns the attributes of a model as they were before `compile`."""
    known = {
        name: _CHANGED_BY_TRAINING.get(name, value)
        for name, value in attributes.items()
        if name not in _ADDED_BY_TRAINING
    }
    gone = {*_ADDED_BY_TRAINING, *_CHANGED_BY_TRAINING}
    for name in _LISTED_BY_TENSORFLOW:
        listed = known.get(name)
        if isinstance(listed, dict):
            known[name] = {key: value for key, value in listed.items() if key not in gone}
        elif listed is not None:
            known[name] = [reference for reference in listed if reference.name not in gone]
    return known


def cell_contents(cell):
    """Returns a list of the value in a closure's cell; an empty list for an empty cell."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def is_proxy(x):
    """Returns whether `x` is TensorFlow's proxy of a container; its copy is a plain container."""
    return type(x).__module__ == "tensorflow.python.trackable.data_structures"
