"""The types of the arguments that all layers share. `Normalization` has descriptions and defaults.

A layer lists its own arguments, then `**shared: Unpack[SharedArguments]`, which type checkers and
editors expand (PEP 692). `complete` expands it at run time, for `help` and `inspect.signature`.
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

from keras_norm.layers.normalization import Normalization

# A number, or a `LearningRateSchedule`, which Keras does not type.
_Multiplier = float | Callable[[Any], Any]


class SharedExceptCenter(TypedDict, total=False):
    """The arguments that all layers share, except `center`, and those of `keras.layers.Layer`."""

    scale: bool
    beta_initializer: Any
    gamma_initializer: Any
    beta_regularizer: Any
    gamma_regularizer: Any
    beta_constraint: Any
    gamma_constraint: Any
    beta_lr_multiplier: _Multiplier
    gamma_lr_multiplier: _Multiplier
    beta_l2_multiplier: _Multiplier
    gamma_l2_multiplier: _Multiplier
    num_channels: int | str | None
    # Of `keras.layers.Layer`
    name: str | None
    dtype: Any
    trainable: bool
    activity_regularizer: Any
    autocast: bool
    input_shape: tuple
    input_dim: int


class SharedArguments(SharedExceptCenter, total=False):
    """The arguments that all layers share, and those of `keras.layers.Layer`."""

    center: bool


Layer = TypeVar("Layer", bound=type)
_MARK = re.compile(r"^ {4}\*\*shared: .*\n(?: {8}.*\n)*", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\w+): .*\n(?: {8}.*\n)*", re.MULTILINE)


def complete(layer: Layer) -> Layer:
    """Expands `**shared` in a layer's signature and docstring; returns the layer's class.

    The shared arguments follow the layer's own positional arguments. They can be given by position
    too, as in Keras; type checkers accept them by name only. An argument that the layer lists
    itself, with another default or meaning, replaces the shared one.
    """
    init = layer.__init__  # type: ignore[misc]
    *own, _ = inspect.signature(init).parameters.values()
    described = inspect.signature(Normalization.__init__).parameters
    by_name = {p.name: p for p in own if p.kind is not p.KEYWORD_ONLY}
    types = SharedArguments.__annotations__
    by_name |= {n: p.replace(annotation=types[n]) for n, p in described.items() if n in types}
    by_name |= {p.name: p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in own}
    signature = inspect.Signature([*by_name.values(), described["kwargs"]])

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs).arguments
        of_keras = given.pop("kwargs", {})
        init(**given, **of_keras)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    layer.__init__ = __init__  # type: ignore[misc]
    if layer.__doc__:  # none under `python -OO`
        # Without the code's indentation, which Python 3.13 removes by itself.
        own_doc, shared_doc = map(inspect.cleandoc, (layer.__doc__, Normalization.__doc__ or ""))
        listed = {entry[1] for entry in _ENTRY.finditer(own_doc)}
        entries = (e[0] for e in _ENTRY.finditer(shared_doc) if e[1] not in listed)
        layer.__doc__ = _MARK.sub(lambda _: "".join(entries), own_doc)
    return layer
