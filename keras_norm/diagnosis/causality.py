"""Finds layer normalizations over time steps in models with causal layers."""

from typing import NamedTuple

import keras

from keras_norm.diagnosis.findings import finding_of_all
from keras_norm.diagnosis.sets import channel_axis, is_of_axes, reduced_axes


class _Causal(NamedTuple):
    """The input of a causal layer: a sequence."""

    name: str
    rank: int
    axis: int
    batch: int
    steps: int

    def is_in(self, shape):
        """Returns whether a tensor has this sequence's steps, by its shape."""
        has_axis = len(shape) > max(self.axis, 2)
        return has_axis and (shape[0], shape[self.axis]) == (self.batch, self.steps)


class Causality:
    """The causal layers of a model, and the normalizations that mix their time steps.

    Models whose outputs have no time steps, such as classifiers, may look ahead.

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
        self._outputs = set()

    def record(self, operation, inputs, arguments):
        """Records one use of a layer: its first input, and all arguments by name."""
        shape = tuple(inputs.shape)
        if is_of_axes(operation):
            self._shapes.setdefault(id(operation), set()).add(shape)
        axis = self._time_axis(operation, arguments)
        if axis is not None:
            self._causal.add(_Causal(operation.name, len(shape), axis, shape[0], shape[axis]))

    def record_outputs(self, outputs):
        """Records the outputs of the model."""
        self._outputs |= {tuple(x.shape) for x in keras.tree.flatten(outputs)}

    def findings(self, layer):
        """Returns a list of at most one finding."""
        found = [
            (sequence, shape)
            for shape in self._shapes.get(id(layer), ())
            for sequence in sorted(self._causal)
            if self._mixes(layer, shape, sequence)
        ]
        if not found:
            return []
        sequence, shape = found[0]
        argument = "reduction_axes" if hasattr(layer, "reduction_axes") else "axis"
        remedy = (
            f"The layer mixes this many time steps, including later ones, but '{sequence.name}' is "
            f"causal: pass `{argument}=-1`, which normalizes each step separately."
        )
        channels = shape[channel_axis(layer, len(shape))]
        return finding_of_all(layer, channels, "time", float(sequence.steps), remedy)

    def _mixes(self, layer, shape, sequence):
        """Returns whether a layer's moments extend over steps that the model's outputs have too."""
        # Only inputs of the same rank, batch and steps belong to the same sequence.
        rank = len(shape)
        is_sequence = rank == sequence.rank and sequence.is_in(shape) and sequence.steps > 1
        is_mixed = is_sequence and sequence.axis in reduced_axes(layer, rank)
        return is_mixed and any(map(sequence.is_in, self._outputs))

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
