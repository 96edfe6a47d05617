"""Follows masks through a model: which layer made them, and where they were lost.

Keras stores the mask of a tensor as an attribute of the tensor. A tensor without a mask comes from
a layer or operation whose inputs are known, or from a plain operation. Such a tensor is matched
with an earlier mask by its shape: the batch and the steps.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_norm.diagnosis.findings import finding_of_all
from keras_norm.diagnosis.sets import channel_axis, family, is_batch, reduced_axes


class Carried(NamedTuple):
    """The mask that a tensor carries, and where it comes from."""

    mask: Any
    name: str


class Lost(NamedTuple):
    """A mask that a tensor should have, and where it was lost."""

    mask: Any
    place: str


class _Call(NamedTuple):
    """The call that returned a tensor."""

    name: str
    takes_mask: bool
    origins: list
    output: Any  # a reference, so that no other tensor gets its id


class Trail:
    """The calls of one batch, in order."""

    def __init__(self):
        self._calls = {}
        self._unchecked = []
        self._carried = []
        self._probe = _Probe()

    def record(self, operation, takes_mask, origins, outputs):
        """Records a call, with the origins of its inputs."""
        for output in keras.tree.flatten(outputs):
            # A model returns a tensor of its last layer, whose call has more information.
            if ops.is_tensor(output) and id(output) not in self._calls:
                call = _Call(operation.name, takes_mask, origins, output)
                self._calls[id(output)] = call
                self._unchecked.append(call)

    def origin(self, tensor):
        """Returns `Carried`, `Lost`, or None for a tensor without any mask."""
        call = self._calls.get(id(tensor))
        mask = self._mask_of(tensor)
        if mask is not None:
            return Carried(mask, call.name if call else "the input")
        return self._by_shape(tensor) if call is None else self._by_call(call)

    def _by_call(self, call):
        for origin in call.origins:
            if isinstance(origin, Lost):
                # A layer such as an RNN may reduce the steps to one.
                return origin if len(call.output.shape) > len(origin.mask.shape) else None
        for origin in call.origins:
            if origin is not None and len(call.output.shape) > len(origin.mask.shape):
                # A layer that takes the mask and changes the steps has used the mask.
                if call.takes_mask and not _fits(origin.mask, call.output):
                    continue
                return Lost(origin.mask, f"in '{call.name}'")
        return None

    def _by_shape(self, tensor):
        for call in self._unchecked:
            mask = self._mask_of(call.output)
            if mask is not None:
                self._carried.append(Carried(mask, call.name))
        self._unchecked = []
        for mask, name in reversed(self._carried):
            if _fits(mask, tensor):
                return Lost(mask, f"after '{name}', in an operation that is not a layer")
        return None

    def _mask_of(self, tensor):
        mask = self._probe(tensor)
        return mask if mask is not None and _fits(mask, tensor) else None


class _Probe(keras.layers.Layer):
    """Returns the mask of its input, as Keras passes it to layers."""

    def __init__(self):
        super().__init__(name="probe", autocast=False)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return mask

    def compute_mask(self, inputs, previous_mask):
        return None


def _fits(mask, tensor):
    rank = len(mask.shape)
    return rank < len(tensor.shape) and tuple(mask.shape) == tuple(tensor.shape[:rank])


class Padding:
    """The padding that a layer has counted, and why."""

    def __init__(self):
        self._padding = 0
        self._positions = 0
        self._place = None
        self._channels = 0

    def record(self, layer, takes_mask, inputs, mask, origin):
        """Records one use of a layer, and the origin of its inputs."""
        if origin is None or mask is not None or not _counts(layer, inputs, origin.mask):
            return
        valid = np.asarray(ops.convert_to_numpy(origin.mask)) > 0
        self._padding += int(np.sum(~valid))
        self._positions += valid.size
        self._place = origin.place if isinstance(origin, Lost) and takes_mask else None
        self._channels = inputs.shape[channel_axis(layer, len(inputs.shape))]

    def findings(self, layer):
        """Returns a list of at most one finding."""
        if not self._padding:
            return []
        counted = "This share of the positions is padding, but is counted: "
        if self._place is not None:
            remedy = (
                f"the mask is lost {self._place}; use layers that pass masks on, or call the layer "
                "with `mask=`."
            )
        else:
            remedy = (
                f"{type(layer).__name__} does not support masks; replace it with "
                f"`keras_norm.{family(layer).__name__}`."
            )
        share = float(self._padding / self._positions)
        return finding_of_all(layer, self._channels, "mask", share, counted + remedy)


def _counts(layer, inputs, mask):
    """Returns whether a set of a layer can contain both valid steps and padding."""
    if is_batch(layer) and not layer.trainable:
        return False  # it computes no moments
    rank = len(inputs.shape)
    channels = channel_axis(layer, rank)
    steps = [axis for axis in range(1, rank) if axis != channels][: len(mask.shape) - 1]
    return not reduced_axes(layer, rank).isdisjoint(steps)
