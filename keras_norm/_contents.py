"""What belongs to a model: the one place that says so.

Keras keeps more than that. It lists every layer that was ever an attribute, every graph that a
Sequential ever had, and on each layer every call of it in any graph. What belongs to a model is
what its attributes lead to now, and the calls that its graphs name. Whatever walks a model asks
here: a popped layer, or one whose attribute was replaced, is no part of it.
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
# What `compile` and `fit` add to a model, and what they change, with the value before; and the
# lists in which TensorFlow has some attributes once more.
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
# Lists of Keras and TensorFlow that also hold what is gone; and what leads from a layer or tensor
# to calls in other graphs.
_KEPT_FOREVER = ("_layers", "_tracked", "_self_unconditional_deferred_dependencies")
_CALLS = ("_inbound_nodes", "_outbound_nodes", "_keras_history")
_NOT_FOLLOWED = {*_KEPT_FOREVER, *_LISTED_BY_TENSORFLOW, *_CALLS}


def contents(root):
    """Yields `root` and everything that belongs to it.

    Only the calls of a layer (the nodes of graphs) that the graphs of models in `root` name count:
    other models that share a layer are no part of `root`.
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
    """Returns the layers that belong to a model, itself included, in Keras's order."""
    belonging = {id(x) for x in contents(model)}
    return [layer for layer in model._flatten_layers() if id(layer) in belonging]


def is_shared(x):
    """Says whether a copy shares `x` with the original."""
    if isinstance(x, list | tuple | dict | set | frozenset | CALLABLES):
        return False
    if isinstance(x, keras.Variable) or is_variable_of_backend(x):
        return False
    if type(x).__module__.partition(".")[0] in _SHARED_PACKAGES or isinstance(x, enum.Enum | type):
        return True
    return isinstance(x, np.ndarray) or keras.ops.is_tensor(x) or not attributes(x)


def is_variable_of_backend(x):
    """Says whether `x` is a variable of TensorFlow or a parameter of PyTorch."""
    tensorflow, torch = sys.modules.get("tensorflow"), sys.modules.get("torch")
    return (tensorflow is not None and isinstance(x, tensorflow.Variable)) or (
        torch is not None and isinstance(x, torch.nn.Parameter)
    )


def holds_state(x):
    """Says whether layers, variables or the like belong to `x`."""
    return any(isinstance(y, _STATEFUL) or is_variable_of_backend(y) for y in contents(x))


def _parts(x):
    """Returns what `x` holds."""
    if is_variable_of_backend(x) or is_tracker(x):
        return []
    if isinstance(x, types.MethodType):
        return [x.__func__, x.__self__]
    parts = [value for name, value in attributes(x).items() if name not in _NOT_FOLLOWED]
    if isinstance(x, keras.Sequential):
        parts += x._layers  # here Keras keeps what there is
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
    """Says whether `x` is Keras's list of everything that was ever an attribute of a layer."""
    return {"stored_ids", "config"} <= attributes(x).keys()


def attributes(x):
    """Returns the attributes of `x` itself, those in slots too, as a dictionary.

    Those of a model are as they were before `compile`.
    """
    state = {} if is_proxy(x) else object.__getstate__(x)
    if isinstance(state, tuple):
        return {name: value for part in state if part for name, value in part.items()}
    return _untrained(state) if isinstance(x, keras.Model) else state or {}


def _untrained(attributes):
    """Returns the attributes that a model with these had before `compile`."""
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
    """Returns the one value in a closure's cell in a list, which is empty where the cell is."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def is_proxy(x):
    """Says whether `x` is TensorFlow's stand-in for a container; its copy is a plain container."""
    return type(x).__module__ == "tensorflow.python.trackable.data_structures"
