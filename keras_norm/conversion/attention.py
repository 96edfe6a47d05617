"""Folds an affine map of channels, `factor * x + shift`, into the projections of attention."""

import inspect

import keras

from keras_norm.conversion import einsum
from keras_norm.conversion.placing import arrays_of, assigned, built_like

LAYERS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
# The projections that read an argument of the call, by the names that Keras gives them.
_PROJECTIONS = {"query": ("query", "gate"), "key": ("key",), "value": ("value",)}


def reads(node, tensor):
    """Returns the names of the arguments of an attention layer's call, and which are `tensor`.

    None for the calls of other layers.
    """
    if type(node.operation) not in LAYERS:
        return None
    signature = inspect.signature(node.operation.call)
    bound = signature.bind(*node.arguments.args, **node.arguments.kwargs).arguments
    return {name: value is tensor for name, value in bound.items() if value is not None}


def why_not_after(layer, axis, reads):
    """Returns why a map of axis `axis` of its inputs cannot be folded into a layer; or None."""
    for name, is_read in reads.items():
        if is_read and name not in _PROJECTIONS:
            return f"reads it as argument `{name}`"
    for projection in _reading(layer, reads).values():
        if projection.quantization_mode is not None or projection.lora_enabled:
            return "is quantized, or has LoRA enabled"
        if why_not := einsum.why_not_after(projection, axis):
            return why_not
    return None


def with_inputs_mapped(layer, factor, shift, axis, reads):
    """Returns a layer whose output for `x` is that of `layer` for `factor * x + shift`."""
    mapped = _reading(layer, reads)
    config = layer.get_config()
    config["use_bias"] = config["use_bias"] or bool(shift.any())
    new = built_like(type(layer).from_config(config), layer)
    parts, pairs = _parts(new), []
    for name, part in _parts(layer).items():
        if name in mapped:
            arrays, _ = einsum.arrays_with_inputs_mapped(part, factor, shift, axis)
        else:
            arrays = arrays_of(part)
        pairs += assigned(parts[name], part, arrays)
    return new, pairs


def _reading(layer, reads):
    """Returns the projections that read the tensor, by name."""
    reads = {"key": reads["value"], **reads}  # without a key, Keras uses the value
    names = [name for argument, own in _PROJECTIONS.items() if reads[argument] for name in own]
    return {name: part for name, part in _parts(layer).items() if name in names}


def _parts(layer):
    """Returns the layers within `layer` that have weights, by name."""
    return {x.name: x for x in layer._flatten_layers(include_self=False) if x.weights}
