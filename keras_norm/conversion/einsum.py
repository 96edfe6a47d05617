"""Folds an affine map of one axis, `factor * x + shift`, into a neighbouring `EinsumDense` layer.

Each axis of inputs, kernel and outputs has a letter in the layer's equation. An axis that the
equation elides has a digit here.
"""

import numpy as np

from keras_norm.conversion.placing import arrays_of, with_arrays


class _Letters:
    """The letters of a built layer's axes, a string each: `inputs`, `kernel` and `outputs`."""

    def __init__(self, layer):
        operands, outputs = layer.equation.split("->")
        inputs, self.kernel = operands.split(",")
        rank = len(layer.get_build_config()["input_shape"])
        elided = "".join(map(str, range(rank - len(inputs.replace("...", "")))))
        self.inputs, self.outputs = (v.replace("...", elided) for v in (inputs, outputs))

    def along(self, letters, letter, values):
        """Returns `values` in a shape with their size on the axis of `letter`, and 1 elsewhere.

        Args:
            letters: The letters of all axes.
            letter: One of them.
            values: Array of rank 1.
        """
        return values.reshape([-1 if each == letter else 1 for each in letters])


def why_not_before(layer, axis):
    """Returns why a map of axis `axis` of its outputs cannot be folded into a layer; or None."""
    letters = _Letters(layer)
    if letters.outputs[axis] not in letters.kernel:
        return f"has no axis {axis} of its outputs in its kernel (equation={layer.equation!r})"
    return None


def why_not_after(layer, axis):
    """Returns why a map of axis `axis` of its inputs cannot be folded into a layer; or None."""
    letters = _Letters(layer)
    equation = f"(equation={layer.equation!r})"
    if letters.inputs[axis] not in letters.kernel:
        return f"has no axis {axis} of its inputs in its kernel {equation}"
    if set(letters.inputs) - set(letters.kernel) - set(letters.outputs):
        return f"sums over an axis of its inputs that its kernel lacks {equation}"
    if not set(letters.kernel) & set(letters.outputs):
        return f"has no axis for a bias {equation}"
    return None


def arrays_with_inputs_mapped(layer, factor, shift, axis):
    """Returns arrays and bias axes of a layer that includes the map of its inputs."""
    letters, arrays = _Letters(layer), arrays_of(layer)
    kernel, mapped = arrays["kernel"], letters.inputs[axis]
    arrays["kernel"] = kernel * letters.along(letters.kernel, mapped, factor)
    if layer.bias is None and not shift.any():
        return arrays, layer.bias_axes
    kept = [letter for letter in letters.outputs if letter in letters.kernel]
    offset = np.einsum(f"{letters.kernel},{mapped}->{''.join(kept)}", kernel, shift)
    sizes = iter(offset.shape)
    offset = offset.reshape([next(sizes) if v in kept else 1 for v in letters.outputs])
    return _with_bias(layer, letters, arrays, arrays.get("bias", 0.0) + offset, kept)


def with_inputs_mapped(layer, factor, shift, axis):
    """Returns a layer whose output for `x` is that of `layer` for `factor * x + shift`."""
    arrays, bias_axes = arrays_with_inputs_mapped(layer, factor, shift, axis)
    return with_arrays(layer, arrays, bias_axes=bias_axes)


def with_outputs_mapped(layer, factor, shift, axis):
    """Returns a layer whose outputs are `factor * outputs + shift` of `layer`, and variables."""
    letters, arrays = _Letters(layer), arrays_of(layer)
    mapped = letters.outputs[axis]
    arrays["kernel"] *= letters.along(letters.kernel, mapped, factor)
    factor, shift = (letters.along(letters.outputs, mapped, v) for v in (factor, shift))
    bias = arrays.get("bias", 0.0) * factor + shift
    arrays, bias_axes = _with_bias(layer, letters, arrays, bias, [mapped])
    return with_arrays(layer, arrays, bias_axes=bias_axes)


def _with_bias(layer, letters, arrays, bias, added):
    """Returns arrays with a bias, and the axes of that bias.

    Args:
        layer: The layer.
        letters: Its letters.
        arrays: Its arrays.
        bias: The new bias, of the rank of the outputs.
        added: The letters of the axes that the bias spans in addition.
    """
    spanned = [v for v in letters.outputs if v in added or v in (layer.bias_axes or "")]
    # Keras's bias has the axes of the outputs from the first one that it spans.
    first = letters.outputs.index(spanned[0])
    return arrays | {"bias": bias.reshape(bias.shape[first:])}, "".join(spanned)
