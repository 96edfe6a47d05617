"""The base of the layers that MATLAB's functions return: properties as attributes."""

import copy
import inspect

from keras_norm import _name_value, layers
from keras_norm.layers.normalization import Normalization
from keras_norm.matlab import assignment, property_table

_REFUSED = {
    name: f"is read-only: it is always {value!r}. Leave it out."
    for name, value in property_table.READ_ONLY.items()
}
# Attributes of all layers. In lower case, some properties have the same names: "Epsilon".
_ATTRIBUTES = {"name", *inspect.signature(Normalization).parameters}


def _constant(value):
    return lambda layer: copy.copy(value)


class Properties(Normalization):
    """MATLAB's properties as attributes of a layer, which can be read and set.

    As in MATLAB, setting another name with an upper-case first letter, or a property's name in
    another case, raises an error.
    """

    _in_other_case: frozenset = frozenset()

    def __init_subclass__(cls, properties=None, **kwargs):
        """Adds the properties in a table to a class, as readable attributes.

        A class without a table inherits its parent's.
        """
        super().__init_subclass__(**kwargs)
        if properties is None:
            return
        cls.property_table = properties
        cls._in_other_case = frozenset({name.lower() for name in properties} - _ATTRIBUTES)
        for name, entry in properties.items():
            setattr(cls, name, property(entry.read))
        for name, value in property_table.READ_ONLY.items():
            setattr(cls, name, property(_constant(value)))

    def __setattr__(self, name, value):
        """Sets a property or another attribute."""
        if name[:1].isupper() or name.lower() in self._in_other_case:
            assignment.assign(self, name, value)
        else:
            super().__setattr__(name, value)

    def build(self, input_shape):
        """Creates the variables; errors have MATLAB's names of the properties."""
        with _name_value.renamed(property_table.names_of_arguments(self)):
            super().build(input_shape)


def made(cls, pairs, keywords, refused=(), **given):
    """Returns a layer with MATLAB's properties, as MATLAB's functions make it.

    Args:
        cls: The layer's class, a `Properties`.
        pairs: Properties as names and values.
        keywords: Properties as keywords.
        refused: Dictionary from properties that the class has, but the function does not accept,
            to the reasons.
        **given: Arguments of the layer that no property gives.
    """
    function = f"{cls.__name__[0].lower()}{cls.__name__[1:]}"
    table = cls.property_table
    refused = {**_REFUSED, **dict(refused)}
    names = [name for name in table if name not in refused]
    values = _name_value.collect(function, names, pairs, keywords, refused)
    arguments = given | property_table.arguments(function, table, values)
    if "name" not in arguments:  # Keras derives names from the class: here ours, without "Layer"
        arguments["name"] = getattr(layers, cls.__name__.removesuffix("Layer"))().name
    with _name_value.renamed({entry.argument: name for name, entry in table.items()}):
        return cls(**arguments)
