"""An affine map of channels, `factor * x + shift`, moved into a linear layer beside it.

Kernels and biases come and go as float64 arrays, by name: one rounding in all.
"""

import keras
import numpy as np

from keras_norm._validation import callable_name
from keras_norm.conversion.placing import put_in_place

_DENSE = (keras.layers.Dense,)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_LINEAR = (*_DENSE, *_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE)


def why_not_before(layer, axis):
    """Says why a layer cannot take up a map of its outputs' channels, on `axis`; or None."""
    if why_not := _why_not_linear(layer, axis):
        return why_not
    if layer.activation is not keras.activations.linear:
        return f"has the activation {callable_name(layer.activation)}"
    return None


def why_not_after(layer, axis):
    """Says why a layer cannot take up a map of its inputs' channels, on `axis`; or None."""
    if why_not := _why_not_linear(layer, axis):
        return why_not
    if isinstance(layer, _TRANSPOSED):
        return "is transposed: fewer terms sum up to its border"
    if isinstance(layer, _DENSE) or layer.padding == "valid":
        return None
    if max(layer.kernel_size) > 1:
        return f"pads its input with zeros (padding={layer.padding!r})"
    return None


def _why_not_linear(layer, axis):
    if type(layer) not in _LINEAR:
        return f"is no Dense or convolution layer ({type(layer).__name__})"
    if layer.quantization_mode is not None or getattr(layer, "lora_enabled", False):
        return "is quantized, or has LoRA enabled"
    rank = len(layer.get_build_config()["input_shape"])
    channel_axis = 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1
    if axis != channel_axis:
        return f"has its channels on axis {channel_axis}, not {axis}"
    return None


def with_outputs_mapped(layer, factor, shift):
    """Returns a layer whose outputs are `factor * outputs + shift` of `layer`, and variables."""
    arrays = _arrays(layer)
    if isinstance(layer, _DEPTHWISE):
        arrays["kernel"] *= factor.reshape(arrays["kernel"].shape[-2:])
    elif isinstance(layer, _TRANSPOSED):
        arrays["kernel"] *= factor[:, np.newaxis]
    else:
        arrays["pointwise_kernel" if isinstance(layer, _SEPARABLE) else "kernel"] *= factor
    return _with_arrays(layer, arrays | {"bias": arrays.get("bias", 0) * factor + shift})


def with_inputs_mapped(layer, factor, shift):
    """Returns a layer that gives for `x` what `layer` gives for `factor * x + shift`."""
    arrays = _arrays(layer)
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
    return _with_arrays(layer, arrays | {"bias": arrays.get("bias", 0) + offset})


def _per_output(values, kernel_shape):
    """Returns values of input channels as a kernel has them: each group of outputs its own."""
    inputs, outputs = kernel_shape
    groups = values.size // inputs
    return np.repeat(values.reshape(groups, inputs), outputs // groups, axis=0).T


def _arrays(layer):
    return {v.name: keras.ops.convert_to_numpy(v).astype("float64") for v in layer.weights}


def _with_arrays(layer, arrays):
    """Returns a layer like `layer` that has a bias and these values, and the pairs of variables."""
    activation = layer.activation
    if not isinstance(activation, keras.layers.Layer):
        layer.activation = keras.activations.linear  # not every function has a config
    new = type(layer).from_config(layer.get_config() | {"use_bias": True})
    new.activation = layer.activation = activation
    variables = put_in_place(new, layer)
    for variable in new.weights:
        variable.assign(arrays[variable.name])
    return new, variables
