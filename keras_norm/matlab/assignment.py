"""Sets MATLAB's properties of an existing layer, with the checks of the constructor."""

from keras_norm import _name_value, _validation, initializers
from keras_norm.matlab import property_table
from keras_norm.matlab.given_values import GivenValues, given, overridden


def assign(layer, name, value):
    """Sets a property of a layer from one of MATLAB's functions.

    Raises:
        AttributeError: If there is no such property, or it can only be read.
        TypeError: If the value is of a wrong type.
        ValueError: If it is out of range, or does not fit the layer's other properties.
    """
    table = property_table.table_of(layer)
    owner = f"layer '{layer.name}' ({type(layer).__name__})"
    if name in property_table.READ_ONLY or name == "Name":
        how = " after the layer is created: pass it to the function" if name == "Name" else ""
        raise AttributeError(f"The property '{name}' of {owner} is read-only{how}.")
    if name not in table:
        raise AttributeError(
            f"The {owner} has no property {name!r}.{_name_value.hint(name, table)} "
            f"It has: {', '.join(table)}"
        )
    entry = table[name]
    if entry.variable is not None:
        _assign_values(layer, owner, name, entry, value)
        return
    converted = entry.convert(name, value)
    if entry.argument == "num_channels":
        channels = None if converted == "auto" else converted
        if channels is not None:
            sizes = {**_sizes(layer, table), name: channels}
            _name_value.check_sizes(owner, {name: sizes.pop(name), **sizes})
        _tried(layer, num_channels=channels)
        layer._num_channels = channels
        return
    current = getattr(layer, entry.argument)
    if given(current) is not None:  # given values still override the initializer
        converted = GivenValues(given(current), converted)
    made = _tried(layer, **{entry.argument: converted})
    setattr(layer, entry.argument, getattr(made, entry.argument))


def _assign_values(layer, owner, name, entry, value):
    variable = getattr(layer, entry.variable)
    if _name_value.is_empty(value):
        if variable is not None:
            raise ValueError(
                f"`{name}` of {owner} must keep its values, as the layer is built. "
                f"Received: {name}={_validation.shown(value)}"
            )
        initializer = overridden(getattr(layer, entry.argument), entry.default)
    else:
        array = entry.convert(name, value)
        sizes = _sizes(layer, property_table.table_of(layer))
        sizes.pop(name, None)
        _name_value.check_sizes(owner, {**sizes, name: array.size})
        if variable is not None:
            variable.assign(array.reshape(variable.shape))
            return
        kept = overridden(getattr(layer, entry.argument), None)
        initializer = property_table.overriding(array, kept)
    setattr(layer, entry.argument, initializers.get(initializer))


def _sizes(layer, table):
    """Returns the numbers of channels of a layer's properties, by their names."""
    sizes = {} if layer.num_channels is None else {"NumChannels": layer.num_channels}
    values = {name: entry.read(layer) for name, entry in table.items() if entry.variable}
    return sizes | {name: value.size for name, value in values.items() if len(value)}


def _tried(layer, **arguments):
    """Checks arguments by creating another layer with them; returns that layer."""
    related = ("groups", "num_channels") if hasattr(layer, "NumGroups") else ("num_channels",)
    others = {name: getattr(layer, name) for name in related if name not in arguments}
    with _name_value.renamed(property_table.names_of_arguments(layer)):
        return type(layer)(name=layer.name, **others, **arguments)
