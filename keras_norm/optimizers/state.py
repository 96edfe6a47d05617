"""The state of an optimizer for its variables, and its transfer to another set of variables."""

import keras


def by_variable(optimizer):
    """Returns the lists of an optimizer with one entry per variable, by attribute."""
    known = (optimizer._trainable_variables, optimizer._variables)
    return {
        name: held
        for name, held in vars(optimizer).items()
        if isinstance(held, (list, tuple))
        and len(held) == len(optimizer._trainable_variables)
        and not any(held is other for other in known)
    }


def of_variable(optimizer, index):
    """Returns the optimizer's state for the variable at a position, by attribute."""
    found = {name: held[index] for name, held in by_variable(optimizer).items()}
    return {name: item for name, item in found.items() if isinstance(item, keras.Variable)}


def common(optimizer):
    """Returns the state that all variables share (Nadam's momentum product), by attribute."""
    return {
        name: held for name, held in vars(optimizer).items() if isinstance(held, keras.Variable)
    }


def path(variable):
    """Returns the path of a Keras variable, or the name of a variable of TensorFlow."""
    return getattr(variable, "path", variable.name)


def decays(optimizer):
    """Returns whether an optimizer has decoupled weight decay."""
    # Muon has a second one, for the variables that it updates with Adam.
    names = ("weight_decay", "adam_weight_decay")
    return any(getattr(optimizer, name, None) is not None for name in names)


def decay(optimizer, variable):
    """Returns the weight decay of a variable; None if its optimizer has none."""
    is_by_adam = getattr(optimizer, "_should_use_adamw", None)  # a method of Muon
    if is_by_adam is not None and is_by_adam(variable):
        return optimizer.adam_weight_decay
    return optimizer.weight_decay


def check_known(optimizer, variables):
    """Checks that an optimizer was built for some variables.

    Raises:
        ValueError: If it was not; the message says what to do.
    """
    for variable in variables:
        if optimizer._var_key(variable) not in optimizer._trainable_variables_indices:
            raise ValueError(
                f"Optimizer '{optimizer.name}' was not built for the variable "
                f"'{path(variable)}'. {CHANGED}"
            )


CHANGED = (
    "If `trainable` of a layer changed, call `optimizer.build(model.trainable_variables)` and "
    "compile the model again. For another model, make a new optimizer."
)
if keras.backend.backend() == "jax":
    CHANGED += " If `fit` failed, JAX has lost the weights: make the model again and load them."


def rebuild(optimizer, variables):
    """Builds a built optimizer for another set of variables.

    Variables that remain keep their state, and the step count continues. New variables start as
    under a new optimizer.

    Raises:
        ValueError: If the optimizer has state that belongs neither to one variable nor to all, or
            if a variable has lost its value.
    """
    # Variables of TensorFlow have no such attribute.
    lost = [variable for variable in variables if getattr(variable, "_value", 0) is None]
    if lost:
        raise ValueError(
            f"The values of {len(lost)} variables are lost, such as '{path(lost[0])}': on JAX, a "
            "`fit` that fails discards the weights and the state of the optimizer. Make the model "
            "and its optimizer again, and load the weights."
        )
    before = {
        key: of_variable(optimizer, index)
        for key, index in optimizer._trainable_variables_indices.items()
    }
    common_before = common(optimizer)
    for variable in _made_by_build(optimizer, before.values(), common_before):
        optimizer._untrack_variable(variable)
    optimizer._trainable_variables_indices.clear()
    optimizer.built = False
    optimizer.build(variables)
    for index, variable in enumerate(variables):
        held = of_variable(optimizer, index)
        kept = before.get(optimizer._var_key(variable))
        if kept is not None:
            for name, item in held.items():
                item.assign(kept[name])
        elif optimizer.use_ema:
            # Keras initializes averages only at the first step of an optimizer.
            held["_model_variables_moving_average"].assign(variable)
    for name, item in common(optimizer).items():
        if item is not common_before.get(name, item):
            item.assign(common_before[name])


def _made_by_build(optimizer, held, common):
    """Returns the variables that `build` of an optimizer created."""
    of_one = {id(item) for items in held for item in items.values()}
    known = of_one | {id(variable) for variable in common.values()}
    everything = optimizer.variables
    first = next((i for i, v in enumerate(everything) if id(v) in of_one), len(everything))
    other = [variable.name for variable in everything[first:] if id(variable) not in known]
    if other:
        raise ValueError(
            f"The state of {type(optimizer).__name__} cannot be kept when the variables change: "
            f"{', '.join(map(repr, other[:5]))} belongs neither to one variable nor to all. "
            "Make a new optimizer."
        )
    return everything[first:]
