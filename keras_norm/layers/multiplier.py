"""Multipliers as attributes of layers."""

from keras_norm import multipliers

# The value before one is set. TensorFlow skips the assignment of a value that an attribute already
# has, and so would not check None.
_UNSET = object()


class Multiplier:
    """A layer's attribute that is the multiplier of one of its variables.

    Until the variable exists, the layer stores the number. After that the variable stores it, so
    that the layer's config follows `set_multipliers`.
    """

    def __init__(self, variable, attribute):
        self.variable = variable
        self.attribute = attribute

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, layer, owner=None):
        if layer is None:
            return self
        variable = getattr(layer, self.variable, None)
        return getattr(variable, self.attribute, layer.__dict__.get(f"_{self.name}", _UNSET))

    def __set__(self, layer, value):
        value = multipliers.checked_multiplier(self.name, value)
        layer.__dict__[f"_{self.name}"] = value
        variable = getattr(layer, self.variable, None)
        if variable is not None:
            setattr(variable, self.attribute, value)
