"""Finds layer normalizations over time steps in models with causal layers."""

from typing import NamedTuple

import keras

from keras_norm.diagnosis.findings import finding_of_all
from keras_norm.diagnosis.sets import OF_STEPS, channel_axis, reduced_axes


class _Causal(NamedTuple):
    """The input of a causal layer."""

    name: str
    rank: int
    axis: int
    batch: int
    steps: int


class _Mixed(NamedTuple):
    """The time steps that a normalization mixes."""

    steps: int
    channels: int
    name: str


class Causality:
    """The causal layers of a model, and the normalizations that mix their time steps.

    Args:
        operations: All layers and operations of the model.
    """

    def __init__(self, operations):
        # A bidirectional layer reads in both directions.
        self._not_causal = {
            id(part)
            for layer in operations
            if isinstance(layer, keras.layers.Bidirectional)
            for part in (layer.forward_layer, layer.backward_layer)
        }
        self._causal = set()
        self._shapes = {}

    def record(self, operation, inputs, arguments):
        """Records one use of a layer: its first input, and all arguments by name."""
        shape = tuple(inputs.shape)
        if isinstance(operation, OF_STEPS):
            self._shapes.setdefault(id(operation), set()).add(shape)
        axis = self._time_axis(operation, arguments)
        if axis is not None:
            self._causal.add(_Causal(operation.name, len(shape), axis, shape[0], shape[axis]))

    def findings(self, layer):
        """Returns a list of at most one finding."""
        mixed = self._mixed(layer)
        if mixed is None:
            return []
        argument = "reduction_axes" if hasattr(layer, "reduction_axes") else "axis"
        remedy = (
            f"The layer mixes this many time steps, also later ones, but '{mixed.name}' is causal: "
            f"pass `{argument}=-1`, which normalizes each step separately."
        )
        return finding_of_all(layer, mixed.channels, "time", float(mixed.steps), remedy)

    def _mixed(self, layer):
        for shape in self._shapes.get(id(layer), ()):
            for name, rank, axis, batch, steps in sorted(self._causal):
                # Only inputs of the same rank, batch and steps belong to the same sequence.
                same = len(shape) == rank and (shape[0], shape[axis]) == (batch, steps)
                if same and steps > 1 and axis in reduced_axes(layer, rank):
                    return _Mixed(steps, shape[channel_axis(layer, rank)], name)
        return None

    def _time_axis(self, operation, arguments):
        """Returns the axis along which a layer never looks ahead; None for other layers."""
        if arguments.get("use_causal_mask") is True:
            return 1
        if getattr(operation, "padding", None) == "causal":
            return 1 if operation.data_format == "channels_last" else 2
        is_forward = (
            isinstance(operation, keras.layers.RNN)
            and not operation.go_backwards
            and id(operation) not in self._not_causal
        )
        return 1 if is_forward else None
