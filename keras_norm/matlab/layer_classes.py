"""The layers that MATLAB's functions return: our layers with MATLAB's properties as attributes."""

import copy

import keras

from keras_norm import _name_value, layers
from keras_norm.layers.normalization import Normalization
from keras_norm.matlab import assignment, property_table


def _constant(value):
    return lambda layer: copy.copy(value)


class Properties(Normalization):
    """MATLAB's properties as attributes of a layer, which can be read and set.

    Other names with an upper-case first letter, like MATLAB's properties, are refused.
    """

    def __init_subclass__(cls, properties=None, **kwargs):
        """Adds the properties in a table to a class, as readable attributes.

        A class without a table inherits its parent's.
        """
        super().__init_subclass__(**kwargs)
        if properties is None:
            return
        cls.property_table = properties
        for name, entry in properties.items():
            setattr(cls, name, property(entry.read))
        for name, value in property_table.READ_ONLY.items():
            setattr(cls, name, property(_constant(value)))

    def __setattr__(self, name, value):
        """Sets a property or another attribute."""
        if name[:1].isupper():
            assignment.assign(self, name, value)
        else:
            super().__setattr__(name, value)

    def build(self, input_shape):
        """Creates the variables; errors have MATLAB's names of the properties."""
        with _name_value.renamed(property_table.names_of_arguments(self)):
            super().build(input_shape)


@keras.saving.register_keras_serializable("keras_norm")
class BatchNormalizationLayer(
    Properties, layers.BatchNormalization, properties=property_table.BATCH
):
    """A `BatchNormalization` with the same arguments, and MATLAB's properties as attributes."""


@keras.saving.register_keras_serializable("keras_norm")
class GroupNormalizationLayer(
    Properties, layers.GroupNormalization, properties=property_table.GROUP
):
    """A `GroupNormalization` with the same arguments, and MATLAB's properties as attributes."""


@keras.saving.register_keras_serializable("keras_norm")
class InstanceNormalizationLayer(
    Properties, layers.InstanceNormalization, properties=property_table.INSTANCE
):
    """An `InstanceNormalization` with the same arguments, and MATLAB's properties as attributes."""


@keras.saving.register_keras_serializable("keras_norm")
class LayerNormalizationLayer(
    Properties, layers.LayerNormalization, properties=property_table.LAYER
):
    """A `LayerNormalization` with MATLAB's properties, including `OperationDimension`.

    With "auto", the axes of the moments depend on the rank of the input, so that `reduction_axes`
    is not known before the layer is built.

    Args:
        operation_dimension: "batch-excluded", "auto", "channel-only" or "spatial-channel".
        **kwargs: Arguments of `LayerNormalization` except `reduction_axes`.
    """

    def __init__(self, operation_dimension="batch-excluded", **kwargs):
        super().__init__(**kwargs)
        self._rank = None
        self.operation_dimension = operation_dimension

    @property
    def operation_dimension(self):
        """MATLAB's word for the axes of the moments."""
        return self._operation_dimension

    @operation_dimension.setter
    def operation_dimension(self, value):
        self._operation_dimension = value
        self._choose_axes()

    def _choose_axes(self):
        dimension, rank = self._operation_dimension, self._rank
        channels_only = dimension == "channel-only" or (
            dimension == "auto" and rank is not None and rank <= 3
        )
        self.reduction_axes = -1 if channels_only else None

    def build(self, input_shape):
        """Chooses the axes of the moments, and creates gamma and beta."""
        self._rank = len(input_shape)
        self._choose_axes()
        super().build(input_shape)

    @classmethod
    def from_config(cls, config):
        """Returns a layer with the arguments in `config`."""
        return cls(**config)

    def get_config(self):
        """Returns the constructor's arguments."""
        config = {**super().get_config(), "operation_dimension": self.operation_dimension}
        del config["reduction_axes"]
        return config
