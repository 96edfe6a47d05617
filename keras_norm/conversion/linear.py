"""Folds an affine map of channels, `factor * x + shift`, into a neighbouring linear layer.

Kernels and biases are float64 arrays, by name, so that they are rounded only once.
"""

import keras
import numpy as np

from keras_norm._validation import callable_name
from keras_norm.conversion import attention, einsum
from keras_norm.conversion.placing import arrays_of, with_arrays

_DENSE = (keras.layers.Dense,)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_EINSUM = (keras.layers.EinsumDense,)
_LINEAR = (*_DENSE, *_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE, *_EINSUM)


def why_not_before(layer, axis):
    """Returns why a map of axis `axis` of its outputs cannot be folded into a layer; or None."""
    if why_not := _why_not_linear(layer):
        return why_not
    if layer.activation is not keras.activations.linear:
        return f"has the activation {callable_name(layer.activation)}"
    if isinstance(layer, _EINSUM):
        return einsum.why_not_before(layer, axis)
    return _why_not_on_axis(layer, axis)


def why_not_after(layer, axis, reads):
    """Returns why a map of axis `axis` of its inputs cannot be folded into a layer; or None.

    Args:
        layer: The layer.
        axis: The axis.
        reads: What `attention.reads` returns for the layer's call.
    """
    if type(layer) in attention.LAYERS:
        return attention.why_not_after(layer, axis, reads)
    if why_not := _why_not_linear(layer):
        return why_not
    if isinstance(layer, _EINSUM):
        return einsum.why_not_after(layer, axis)
    if why_not := _why_not_on_axis(layer, axis):
        return why_not
    if isinstance(layer, _TRANSPOSED):
        return "is a transposed convolution, whose border sums fewer terms"
    if isinstance(layer, _DENSE) or layer.padding == "valid":
        return None
    if max(layer.kernel_size) > 1:
        return f"pads its input with zeros (padding={layer.padding!r})"
    return None


def _why_not_linear(layer):
    if type(layer) not in _LINEAR:
        return (
            f"is not a Dense, EinsumDense, convolution or attention layer ({type(layer).__name__})"
        )
    if layer.quantization_mode is not None or getattr(layer, "lora_enabled", False):
        return "is quantized, or has LoRA enabled"
    return None


def _why_not_on_axis(layer, axis):
    rank = len(layer.get_build_config()["input_shape"])
    channel_axis = 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1
    if axis != channel_axis:
        return f"has its channels on axis {channel_axis}, not {axis}"
    return None


def with_outputs_mapped(layer, factor, shift, axis):
    """Returns a layer whose outputs are `factor * outputs + shift` of `layer`, and variables."""
    if isinstance(layer, _EINSUM):
        return einsum.with_outputs_mapped(layer, factor, shift, axis)
    arrays = arrays_of(layer)
    if isinstance(layer, _DEPTHWISE):
        arrays["kernel"] *= factor.reshape(arrays["kernel"].shape[-2:])
    elif isinstance(layer, _TRANSPOSED):
        arrays["kernel"] *= factor[:, np.newaxis]
    else:
        arrays["pointwise_kernel" if isinstance(layer, _SEPARABLE) else "kernel"] *= factor
    arrays["bias"] = arrays.get("bias", 0) * factor + shift
    return with_arrays(layer, arrays, use_bias=True)


def with_inputs_mapped(layer, factor, shift, axis, reads):
    """Returns a layer whose output for `x` is that of `layer` for `factor * x + shift`."""
    if type(layer) in attention.LAYERS:
        return attention.with_inputs_mapped(layer, factor, shift, axis, reads)
    if isinstance(layer, _EINSUM):
        return einsum.with_inputs_mapped(layer, factor, shift, axis)
    arrays = arrays_of(layer)
    has_bias = layer.use_bias or bool(shift.any())
    name = "depthwise_kernel" if isinstance(layer, _SEPARABLE) else "kernel"
    kernel = arrays[name]
    if isinstance(layer, _DEPTHWISE + _SEPARABLE):
        factor, shift = factor[:, np.newaxis], shift[:, np.newaxis]
    else:
        factor, shift = (_per_output(v, kernel.shape[-2:]) for v in (factor, shift))
    arrays[name] = kernel * factor
    offset = (kernel * shift).sum(tuple(range(kernel.ndim - 2)))
    offset = offset.ravel() if isinstance(layer, _DEPTHWISE + _SEPARABLE) else offset.sum(0)
    if isinstance(layer, _SEPARABLE):
        offset = offset @ arrays["pointwise_kernel"].reshape(offset.size, -1)
    arrays["bias"] = arrays.get("bias", 0) + offset
    return with_arrays(layer, arrays, use_bias=has_bias)


def _per_output(values, kernel_shape):
    """Returns values of input channels in the kernel's shape; each group of outputs has its own."""
    inputs, outputs = kernel_shape
    groups = values.size // inputs
    return np.repeat(values.reshape(groups, inputs), outputs // groups, axis=0).T
