"""Copies everything in a model, with substitutes for some objects.

`keras.models.clone_model` creates new layers from configs, so it copies only what configs describe.
This module copies the objects themselves, each once, with all references between them. So it copies
layers of any class, shared or not, wherever they are: in a graph, a wrapper, an attribute, a list
or the closure of a function. A single substitute replaces a layer everywhere.

The copy shares immutable objects with the original: numbers, strings, classes, arrays that do not
belong to a variable, and objects of the standard library and of the backends. Objects that were
removed from the model are removed from Keras's lists. The `id`s that Keras stores, and the numbers
of calls, are renewed.
"""

import collections
import copy
import functools
import inspect
import re
import types

import keras

from keras_norm._contents import (
    CALLABLES,
    attributes,
    cell_contents,
    contents,
    has_state,
    is_proxy,
    is_shared,
    is_tracker,
    is_variable_of_backend,
)
from keras_norm._validation import callable_name

_CALLS = ("_inbound_nodes", "_outbound_nodes")
_DROPPED = object()
# Attributes of a model that OpenVINO has compiled. Without them, Keras compiles the copy.
_COMPILED_BY_OPENVINO = ("ov_compiled_model", "struct_params", "struct_outputs")


def copied(root, substitutes=None, aliases=None, dropped=()):
    """Returns a copy of `root` and of everything in it. Models in the copy are not compiled.

    Args:
        root: The object to copy.
        substitutes: Dictionary from `id`s of objects to the objects that replace them in the copy.
            A layer takes over the place in graphs of the layer that it replaces.
        aliases: Dictionary from `id`s of objects to the objects whose copies replace them.
        dropped: Objects that the copy does not contain.

    Raises:
        ValueError: If a compiled function contains layers or variables, as it cannot be copied.
            The message names the layer that the function belongs to.
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
        self.belonging = set()
        for x in contents(root):
            self.belonging.add(id(x))
            if id(x) in substitutes:
                self.copied.append(x)
            if isinstance(x, keras.Variable):
                self._copy_value(x)
            for name in _COMPILED_BY_OPENVINO:
                self.copies[id(attributes(x).get(name))] = None
            buffers = attributes(x).get("_buffers")  # of a module of PyTorch
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
        self._copy_calls()
        for x in self.copied:
            self._renew(self.copies[id(x)], x)
        return result

    def copy(self, x):
        """Returns the copy of `x`, which may be filled later."""
        if id(x) in self.copies:
            return self.copies[id(x)]
        if is_shared(x):
            self._check(x)
            return x
        if isinstance(x, keras.Operation) and id(x) not in self.belonging:
            return _DROPPED
        if is_variable_of_backend(x):
            return self.copies.setdefault(id(x), copy.deepcopy(x))
        if isinstance(x, tuple | frozenset):
            items = [self.copy(item) for item in x]
            dropped = any(item is _DROPPED for item in items)
            return _DROPPED if dropped else _with_items(x, items)
        if isinstance(x, types.MethodType):
            return types.MethodType(self.copy(x.__func__), self.copy(x.__self__))
        if isinstance(x, functools.partial):
            keywords = {name: self.copy(value) for name, value in x.keywords.items()}
            return type(x)(self.copy(x.func), *map(self.copy, x.args), **keywords)
        if (isinstance(x, types.FunctionType) or _is_value(x)) and not has_state(x):
            return x
        new = _empty(x)
        self.copies[id(x)] = new
        self.copied.append(x)
        self.todo.append((x, x if isinstance(x, keras.layers.Layer) else self.owner))
        return new

    def _check(self, x):
        """Raises if `x`, which the copy shares, is a compiled function that contains layers."""
        function = None if isinstance(x, type) else getattr(x, "__wrapped__", None)
        if isinstance(function, CALLABLES) and has_state(function):
            owner = getattr(self.owner, "name", "without a name")
            raise ValueError(
                f"Layer '{owner}' contains a compiled function ({type(x).__name__} of "
                f"{callable_name(function)}) that uses layers or variables, which cannot be "
                "copied. Delete the attribute, or store the plain function in it."
            )

    def _copy_value(self, variable):
        """Copies a variable's tensor, so that all references to it get the same copy."""
        value = variable._value
        if value is not None and id(value) not in self.copies:
            # OpenVINO's tensors can be neither copied nor changed; a variable gets a new one.
            is_fixed = keras.backend.backend() == "openvino"
            self.copies[id(value)] = value if is_fixed else copy.deepcopy(value)

    def _fill(self, new, x):
        if isinstance(x, types.FunctionType):
            new.__defaults__ = self.copy(x.__defaults__)
            new.__kwdefaults__ = self.copy(x.__kwdefaults__)
            cells = zip(new.__closure__ or (), x.__closure__ or (), strict=True)
            for cell, original in cells:
                for value in cell_contents(original):
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
        for name, value in attributes(x).items():
            if name not in _CALLS and (value := self.copy(value)) is not _DROPPED:
                if name in getattr(x, "__dict__", ()):
                    vars(new)[name] = value
                else:
                    object.__setattr__(new, name, value)

    def _kept(self, items):
        return [new for new in map(self.copy, items) if new is not _DROPPED]

    def _copy_calls(self):
        """Copies the calls of layers: all calls of a layer, and those that read its outputs."""
        self.numbers = {}  # of calls, by layer and number in the original
        pairs = [(x, self.copies[id(x)]) for x in self.copied if isinstance(x, keras.Operation)]
        for x, new in pairs:
            for name in _CALLS:
                nodes = [self.copies.get(id(node), _DROPPED) for node in getattr(x, name)]
                vars(new)[name] = [node for node in nodes if node is not _DROPPED]
                if name == "_inbound_nodes":
                    kept = (number for number, node in enumerate(nodes) if node is not _DROPPED)
                    self.numbers.update(((id(x), old), i) for i, old in enumerate(kept))
            if id(x) in self.substitutes:
                for node in new._inbound_nodes:
                    _keep_known_arguments(node, new)

    def _renew(self, new, x):
        """Renews what Keras and PyTorch derive from the contents of `x`, copied as `new`.

        These are `id`s, and the numbers of calls among the calls of a layer.
        """
        if isinstance(x, keras.KerasTensor) and hasattr(new, "_keras_history"):
            layer, call, output = x._keras_history
            number = self.numbers.get((id(layer), call))
            place = (None, 0, 0) if number is None else (new._keras_history[0], number, output)
            new._keras_history = type(x._keras_history)(*place)
        if isinstance(x, keras.Function):
            keys = (re.fullmatch(r"(\d+)(\D+)(\d+)", key).groups() for key in x._nodes)
            calls = (
                (self.copies[int(op)], text, self.numbers.get((int(op), int(call))))
                for op, text, call in keys
            )
            new._nodes = {f"{id(op)}{text}{call}" for op, text, call in calls if call is not None}
        if is_tracker(x):
            new.stored_ids = {name: {id(v) for v in held} for name, (_, held) in new.config.items()}
        if isinstance(x, keras.optimizers.Optimizer) and x.built:
            variables = enumerate(new._trainable_variables)
            new._trainable_variables_indices = {new._var_key(v): i for i, v in variables}
        if "_torch_params" in attributes(new).get("_modules", ()):
            new._track_variables()


def _keep_known_arguments(node, layer):
    """Drops the arguments of a call, `mask` or `training`, that the layer does not accept."""
    arguments = node.arguments
    accepted = inspect.signature(layer.call).parameters
    known = {name: value for name, value in arguments.kwargs.items() if name in accepted}
    if len(known) < len(arguments.kwargs):
        node.arguments = type(arguments)(*arguments.args, **known)


def _is_value(x):
    """Returns whether `x` is hashed by its value, not by its identity."""
    # TensorFlow's lists and dictionaries have a hash too, but can change.
    can_change = isinstance(x, list | dict | set)
    return not can_change and type(x).__hash__ not in (None, object.__hash__)


def _empty(x):
    """Returns an empty object of the type of `x`."""
    if isinstance(x, types.FunctionType):
        cells = x.__closure__ and tuple(types.CellType() for _ in x.__closure__)
        new = types.FunctionType(x.__code__, x.__globals__, x.__name__, None, cells)
        for name in functools.WRAPPER_ASSIGNMENTS:
            setattr(new, name, getattr(x, name))
        return new
    if isinstance(x, collections.defaultdict):
        return type(x)(x.default_factory)
    base = next((base for base in (list, set, dict) if isinstance(x, base)), object)
    return base.__new__(base if is_proxy(x) else type(x))


def _with_items(x, items):
    """Returns a tuple or frozenset like `x` of the items; `x` itself if they are the same."""
    if all(new is old for new, old in zip(items, x, strict=True)):
        return x
    base = tuple if isinstance(x, tuple) else frozenset
    return base.__new__(type(x.__wrapped__) if is_proxy(x) else type(x), items)
