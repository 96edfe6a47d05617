"""The common base of layer and RMS normalization: sets of elements that are defined by axes."""

from typing import Unpack

import keras

from keras_norm import _validation
from keras_norm.layers.arguments import SharedArguments, complete
from keras_norm.layers.normalization import Normalization
from keras_norm.ops import convert, normalize

Axes = int | list[int] | tuple[int, ...]


@complete
class AxesNormalization(Normalization):
    """Base of the layers whose moments are taken over axes of each sample.

    Args:
        axis: Integer or list of integers: the axes that gamma and beta span.
        epsilon: Number > 0, in squared units of the input, added to the variance.
        **shared: Arguments that all layers have; see `Normalization`.
        reduction_axes: Integer or list of integers: the axes that the moments are taken over.
            None: the default of the layer.
        **kwargs: `name`, `dtype`, `trainable`, ... of `keras.layers.Layer`.
    """

    # Whether the mean is subtracted.
    centered = True
    # Whether `reduction_axes=None` means `axis`. If not, it means all axes except the batch.
    reduces_axis = False

    def __init__(
        self,
        axis: Axes = -1,
        epsilon: float = 1e-5,
        *,
        reduction_axes: Axes | None = None,
        **shared: Unpack[SharedArguments],
    ):
        super().__init__(axis=_axes("axis", axis), epsilon=epsilon, **shared)
        self.reduction_axes = (
            None if reduction_axes is None else _axes("reduction_axes", reduction_axes)
        )
        if self.num_channels is not None and len(_as_list(self.axis)) != 1:
            raise ValueError(
                "Argument `num_channels` goes with a single `axis`. "
                f"Received: num_channels={self.num_channels}, axis={axis}"
            )

    def build(self, input_shape):
        """Creates gamma and beta."""
        axes = self._indices("axis", len(input_shape))
        self._reduced(len(input_shape))
        if len(axes) == 1:
            self._check_channels(input_shape, axes[0])
        self._parameter_shape = tuple(input_shape[axis] for axis in axes)
        if None in self._parameter_shape:
            raise ValueError(
                f"The axes that gamma and beta of {self._described} span must have known sizes. "
                f"Received: axis={self.axis}, input shape {tuple(input_shape)}"
            )
        self._add_scale_and_offset(self._parameter_shape)
        # As the argument counts them, from the front or the back: the rank of inputs may vary.
        given = _as_list(self.axis)
        self.input_spec = keras.layers.InputSpec(
            min_ndim=max(axis + 1 if axis >= 0 else -axis for axis in given),
            axes={axis: input_shape[axis] for axis in given},
        )

    def call(self, inputs, training=None, mask=None):
        """Returns the normalized inputs."""
        rank = len(inputs.shape)
        axes = self._indices("axis", rank)
        weights = self._mask_weights(mask, inputs.shape, axes[-1])
        dtype = self._statistics_dtype(inputs)
        shape = [1] * rank
        for axis, size in zip(axes, self._parameter_shape, strict=True):
            shape[axis] = size
        gamma, beta = self._scale_and_offset(shape, dtype)
        outputs, _ = normalize(
            self._computable(inputs, dtype),
            self._reduced(rank),
            self.epsilon,
            gamma,
            beta,
            weights,
            centered=self.centered,
            exported=not training,
            with_moments=False,
        )
        return convert(outputs, self.compute_dtype)

    def _reduced(self, rank):
        """Returns the axes that the moments are taken over, counted from the front."""
        if self.reduction_axes is not None:
            return self._indices("reduction_axes", rank)
        if self.reduces_axis:
            return self._indices("axis", rank)
        if rank < 2:
            raise ValueError(
                f"The input of {self._described} must have an axis besides the batch axis, or "
                f"`reduction_axes` must name axes. Received: an input of rank {rank}"
            )
        return list(range(1, rank))

    def _indices(self, name, rank):
        axes = _as_list(getattr(self, name))
        found = sorted(_validation.axis_index(name, axis, rank, self._described) for axis in axes)
        if len(set(found)) < len(found):
            raise ValueError(
                f"Argument `{name}` of {self._described} names an axis twice, for an input of rank "
                f"{rank}. Received: {name}={axes}"
            )
        return found

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "reduction_axes": self.reduction_axes}


def _axes(name, axes):
    """Returns an argument that names one or several axes, checked without the input's rank."""
    if _validation.is_integer(axes):
        return int(axes)
    if not isinstance(axes, list | tuple) or not all(map(_validation.is_integer, axes)):
        raise TypeError(
            f"Expected an int or a list/tuple of ints for the argument '{name}', but received: "
            f"{name}={_validation.shown(axes)}"
        )
    axes = [int(axis) for axis in axes]
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(
            f"Argument `{name}` must name at least one axis, and none twice. "
            f"Received: {name}={_validation.shown(axes)}"
        )
    return axes


def _as_list(axes):
    return axes if isinstance(axes, list) else [axes]
