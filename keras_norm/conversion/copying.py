"""A copy of everything that a model holds, with other objects in chosen places.

`keras.models.clone_model` makes new layers from configs, so it reaches only what configs describe.
Here the objects themselves are copied, each once, with all references between them. Then layers
come along wherever they are: in a graph, a wrapper, an attribute, a list or the closure of a
function, of any class, shared or not; and a layer is exchanged everywhere by naming, once, what
stands for it in the copy.

What cannot change is shared with the original: numbers, strings, classes, arrays that are nobody's
variable, and objects of the standard library and of the backends. What Keras keeps `id`s of is
renewed.
"""

import collections
import copy
import enum
import functools
import inspect
import sys
import types

import keras
import numpy as np

_SHARED_PACKAGES = {*sys.stdlib_module_names, "jax", "jaxlib", "ml_dtypes", "numpy", "tensorflow"}
_CALLABLES = types.FunctionType | types.MethodType | functools.partial
_STATEFUL = (
    keras.KerasTensor,
    keras.Operation,
    keras.Variable,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
)
_CALLS = ("_inbound_nodes", "_outbound_nodes")
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
_DROPPED = object()


def contents(root):
    """Yields `root` and everything in it that a copy of it copies, too.

    Only the calls of a layer (the nodes of graphs) that the graphs of models in `root` name count:
    other models that share a layer are no part of `root`.
    """
    seen = {}
    todo = collections.deque([root])
    while todo:
        x = todo.popleft()
        if id(x) not in seen and not _is_shared(x):
            seen[id(x)] = x
            yield x
            todo.extend(_parts(x))


def copied(root, substitutes=None, aliases=None, dropped=()):
    """Returns a copy of `root` and of everything in it. Models come out uncompiled.

    Args:
        root: The object to copy.
        substitutes: Dictionary: `id`s of objects, and what stands for them in the copy. A layer
            that stands for another takes over its place in graphs.
        aliases: Dictionary: `id`s of objects, and the objects whose copies stand for them.
        dropped: Objects that are left out of whatever holds them.

    Raises:
        ValueError: If a compiled function holds layers or variables, since nothing can copy it.
            The message names the layer that it belongs to.
    """
    return _Copier(root, substitutes or {}, aliases or {}, dropped).run()


class _Copier:
    def __init__(self, root, substitutes, aliases, dropped):
        self.root = root
        self.aliases = aliases
        self.substitutes = substitutes
        self.copies = {**substitutes, **{id(x): _DROPPED for x in dropped}}
        self.copied = []
        self.owner = None
        self.todo = []
        for x in contents(root):
            if id(x) in substitutes:
                self.copied.append(x)
            if isinstance(x, keras.Variable):
                self._copy_value(x)
            buffers = _attributes(x).get("_buffers")  # of a module of PyTorch
            for buffer in buffers.values() if isinstance(buffers, dict) else ():
                self.copies[id(buffer)] = copy.deepcopy(buffer)

    def run(self):
        """Returns the copy."""
        for key, original in self.aliases.items():
            self.copies[key] = self.copy(original)
        result = self.copy(self.root)
        while self.todo:
            x, self.owner = self.todo.pop()
            self._fill(self.copies[id(x)], x)
            if not self.todo:
                self._copy_calls()
        for x in self.copied:
            _renew(self.copies[id(x)], x, self.copies)
        return result

    def copy(self, x):
        """Returns the copy of `x`, which may be filled later."""
        if id(x) in self.copies:
            return self.copies[id(x)]
        if _is_shared(x):
            self._check(x)
            return x
        if isinstance(x, tuple | frozenset):
            items = [self.copy(item) for item in x]
            dropped = any(item is _DROPPED for item in items)
            return _DROPPED if dropped else _with_items(x, items)
        if isinstance(x, types.MethodType):
            return types.MethodType(self.copy(x.__func__), self.copy(x.__self__))
        if isinstance(x, functools.partial):
            keywords = {name: self.copy(value) for name, value in x.keywords.items()}
            return type(x)(self.copy(x.func), *map(self.copy, x.args), **keywords)
        if (isinstance(x, types.FunctionType) or _is_value(x)) and not _holds_state(x):
            return x
        new = _empty(x)
        self.copies[id(x)] = new
        self.copied.append(x)
        self.todo.append((x, x if isinstance(x, keras.layers.Layer) else self.owner))
        return new

    def _check(self, x):
        """Raises if `x`, which the copy shares, is a compiled function around layers."""
        function = None if isinstance(x, type) else getattr(x, "__wrapped__", None)
        if isinstance(function, _CALLABLES) and _holds_state(function):
            owner = getattr(self.owner, "name", "of no name")
            raise ValueError(
                f"Layer '{owner}' holds a function that was compiled ({type(x).__name__} of "
                f"{function.__qualname__}) and uses layers or variables: nothing can reach "
                "these. Delete the attribute, or keep the plain function in it."
            )

    def _copy_value(self, variable):
        """Copies a variable's tensor, so that all who hold it get the same copy."""
        value = variable._value
        if value is not None and id(value) not in self.copies:
            self.copies[id(value)] = copy.deepcopy(value)

    def _fill(self, new, x):
        if isinstance(x, types.FunctionType):
            new.__defaults__ = self.copy(x.__defaults__)
            new.__kwdefaults__ = self.copy(x.__kwdefaults__)
            cells = zip(new.__closure__ or (), x.__closure__ or (), strict=True)
            for cell, original in cells:
                for value in _cell_contents(original):
                    cell.cell_contents = self.copy(value)
        elif isinstance(x, keras.Variable):
            self._copy_value(x)
        elif isinstance(x, list):
            list.extend(new, self._kept(x))
        elif isinstance(x, set):
            set.update(new, self._kept(x))
        elif isinstance(x, dict):
            base = collections.OrderedDict if isinstance(x, collections.OrderedDict) else dict
            for key, value in self._kept(x.items()):
                base.__setitem__(new, key, value)
        for name, value in _attributes(x).items():
            if name not in _CALLS and (value := self.copy(value)) is not _DROPPED:
                if name in getattr(x, "__dict__", ()):
                    vars(new)[name] = value
                else:
                    object.__setattr__(new, name, value)

    def _kept(self, items):
        return [new for new in map(self.copy, items) if new is not _DROPPED]

    def _copy_calls(self):
        """Gives layers their places in graphs: all they were called on, and what follows here."""
        pairs = [(x, self.copies[id(x)]) for x in self.copied if isinstance(x, keras.Operation)]
        for x, new in pairs:
            vars(new)["_inbound_nodes"] = self._kept(x._inbound_nodes)
        for x, new in pairs:
            nodes = [self.copies.get(id(node), _DROPPED) for node in x._outbound_nodes]
            vars(new)["_outbound_nodes"] = [node for node in nodes if node is not _DROPPED]
            if id(x) in self.substitutes and not self.todo:
                for node in new._inbound_nodes:
                    _keep_known_arguments(node, new)


def _keep_known_arguments(node, layer):
    """Drops the arguments of a call, `mask` or `training`, that the layer in it does not take."""
    arguments = node.arguments
    accepted = inspect.signature(layer.call).parameters
    known = {name: value for name, value in arguments.kwargs.items() if name in accepted}
    if len(known) < len(arguments.kwargs):
        node.arguments = type(arguments)(*arguments.args, **known)


def _is_shared(x):
    """Says whether a copy shares `x` with the original."""
    if isinstance(x, list | tuple | dict | set | frozenset | _CALLABLES):
        return False
    if isinstance(x, keras.Variable):
        return False
    if type(x).__module__.partition(".")[0] in _SHARED_PACKAGES or isinstance(x, enum.Enum | type):
        return True
    return isinstance(x, np.ndarray) or keras.ops.is_tensor(x) or not _attributes(x)


def _holds_state(x):
    return any(isinstance(held, _STATEFUL) for held in contents(x))


def _is_value(x):
    """Says whether `x` is found by its value, as a key of a dictionary, and not by itself."""
    # TensorFlow's lists and dictionaries have a hash, too, but change.
    can_change = isinstance(x, list | dict | set)
    return not can_change and type(x).__hash__ not in (None, object.__hash__)


def _parts(x):
    """Returns what `x` holds."""
    if isinstance(x, types.MethodType):
        return [x.__func__, x.__self__]
    parts = [value for name, value in _attributes(x).items() if name not in _CALLS]
    if isinstance(x, functools.partial):
        parts += [x.func, *x.args, *x.keywords.values()]
    elif isinstance(x, types.FunctionType):
        cells = [value for cell in x.__closure__ or () for value in _cell_contents(cell)]
        parts += [*cells, x.__defaults__, x.__kwdefaults__]
    elif isinstance(x, dict):
        parts += [*x.keys(), *x.values()]
    elif isinstance(x, list | tuple | set | frozenset):
        parts += list(x)
    return parts


def _attributes(x):
    """Returns the attributes of `x` itself, those in slots too, as a dictionary.

    Those of a model are as they were before `compile`.
    """
    state = {} if _is_proxy(x) else object.__getstate__(x)
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


def _cell_contents(cell):
    """Returns the one value in a closure's cell in a list, which is empty where the cell is."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _empty(x):
    """Returns an object of the type of `x` that holds nothing yet."""
    if isinstance(x, types.FunctionType):
        cells = x.__closure__ and tuple(types.CellType() for _ in x.__closure__)
        new = types.FunctionType(x.__code__, x.__globals__, x.__name__, None, cells)
        for name in functools.WRAPPER_ASSIGNMENTS:
            setattr(new, name, getattr(x, name))
        return new
    if isinstance(x, collections.defaultdict):
        return type(x)(x.default_factory)
    base = next((base for base in (list, set, dict) if isinstance(x, base)), object)
    return base.__new__(base if _is_proxy(x) else type(x))


def _with_items(x, items):
    """Returns a tuple or frozenset like `x` of the items; `x` itself if they are the same."""
    if all(new is old for new, old in zip(items, x, strict=True)):
        return x
    base = tuple if isinstance(x, tuple) else frozenset
    return base.__new__(type(x.__wrapped__) if _is_proxy(x) else type(x), items)


def _is_proxy(x):
    """Says whether `x` is TensorFlow's stand-in for a container; its copy is a plain container."""
    return type(x).__module__ == "tensorflow.python.trackable.data_structures"


def _renew(new, x, copies):
    """Renews what Keras and PyTorch derive from the objects that `x`, copied as `new`, holds."""
    if isinstance(x, keras.Function):
        keys = [key.split("_", 1) for key in x._nodes]
        operations = [(copies[int(identity)], call) for identity, call in keys]
        new._nodes = {f"{id(op)}_{call}" for op, call in operations if op is not _DROPPED}
    if hasattr(x, "stored_ids"):  # Keras's Tracker
        new.stored_ids = {name: {id(v) for v in held} for name, (_, held) in new.config.items()}
    if isinstance(x, keras.optimizers.Optimizer) and x.built:
        known = enumerate(new._trainable_variables)
        new._trainable_variables_indices = {new._var_key(v): i for i, v in known}
    if "_torch_params" in _attributes(new).get("_modules", ()):
        new._track_variables()
