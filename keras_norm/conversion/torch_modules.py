"""Functions that the conversions of several kinds from and to PyTorch's modules share."""

import keras

from keras_norm.conversion.arguments import (
    affine_arguments,
    names_last_axes,
    reduced_axes,
    sorted_axes,
)


def arguments(module, typical):
    """Returns the arguments that all modules have; the dtype is that of `typical`, unless None."""
    return {
        "epsilon": module.eps,
        "dtype": None if typical is None else str(typical.dtype).removeprefix("torch."),
        **affine_arguments(array(module.weight), array(getattr(module, "bias", None))),
    }


def array(tensor):
    """Returns a tensor's values in float64; None for None."""
    return None if tensor is None else tensor.detach().cpu().double().numpy()


def copy_values(tensor, variable, added=0.0):
    """Copies the values and the dtype of a Keras variable to a tensor."""
    import torch

    values = torch.from_numpy(keras.ops.convert_to_numpy(variable).astype("float64") + added)
    tensor.data = values.to(getattr(torch, variable.dtype))


def from_last_axes(cls, module, epsilon):
    """Returns a layer of a class for a module that normalizes over the last axes, built."""
    rank = len(module.normalized_shape)
    axis = -1 if rank == 1 else list(range(-rank, 0))
    layer = cls(
        axis=axis,
        reduction_axes=axis,
        **arguments(module, module.weight) | {"epsilon": epsilon},
    )
    layer.build((None, *module.normalized_shape))
    return layer


def last_sizes(layer):
    """Returns the sizes of the last axes, after checking that the layer names only these."""
    shape = layer.get_build_config()["input_shape"]
    axes = sorted_axes(layer, "axis")
    if axes != reduced_axes(layer) or not names_last_axes(layer):
        raise ValueError(
            "Arguments `axis` and `reduction_axes` must both name the last axes. Received: "
            f"axis={layer.axis}, reduction_axes={layer.reduction_axes}, an input of rank "
            f"{len(shape)}"
        )
    return [shape[axis] for axis in axes]


def rank_with_channels_on_axis_1(layer):
    """Returns the rank of a built layer's input, after checking the axis of its channels."""
    rank = len(layer.get_build_config()["input_shape"])
    if layer.axis % rank != 1:
        raise ValueError(
            "Argument `axis` must be 1, where PyTorch has the channels. "
            f"Received: axis={layer.axis}, an input of rank {rank}"
        )
    return rank
