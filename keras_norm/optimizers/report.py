"""The current learning rate, L2 factor and weight decay of each variable, as tables."""

import keras

from keras_norm import multipliers
from keras_norm.optimizers import state


def table(optimizer, group):
    """Returns the lines of `MultiplierOptimizer.summary`."""
    rows: dict[tuple, list[str]] = {}
    for index, variable in enumerate(_variables(optimizer)):
        numbers = (
            _rate(optimizer, index),
            optimizer.l2 * _now(optimizer, multipliers.L2, index),
            _decay(optimizer, index),
        )
        key = numbers if group else (index, *numbers)
        rows.setdefault(key, []).append(state.path(variable))
    cells: list[tuple[str, ...]] = [("variable", "learning rate", "L2", "weight decay")]
    for key, paths in rows.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        cells.append((paths[0] + more, *(f"{number:.6g}" for number in key[-3:])))
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    return "\n".join(
        "  ".join(
            [f"{row[0]:<{first}}", *(f"{c:>{w}}" for c, w in zip(row[1:], others, strict=True))]
        )
        for row in cells
    )


def learning_rates(optimizer):
    """Returns the current learning rate of each group of variables, by the group's name.

    A group consists of the variables that match a pattern of `lr_multipliers`, or of the other
    variables of a layer; if these have several rates, each is a group. Names do not contain the
    names of outer models, which change when a model is loaded. Layers of the same name are
    numbered.
    """
    groups: dict[str | int, dict[str, float]] = {}
    names: list[str] = []  # of layers, in the order of the variables
    place, seen = None, set[str]()
    for index, variable in enumerate(_variables(optimizer)):
        layer, _, weight = state.path(variable).rpartition("/")
        # A second weight of the same name belongs to another layer with the same path.
        if layer != place or weight in seen:
            place, seen = layer, set[str]()
            names.append(layer.rpartition("/")[2])
        seen.add(weight)
        pattern = optimizer.pattern(multipliers.LR, index)
        group = len(names) - 1 if pattern is None else pattern
        groups.setdefault(group, {})[weight] = _rate(optimizer, index)
    found = {}
    for group, rates in groups.items():
        name = group if isinstance(group, str) else _numbered(names, group)
        if len(set(rates.values())) == 1:
            found[name] = next(iter(rates.values()))
        else:
            found |= {f"{name}/{weight}": rate for weight, rate in rates.items()}
    return found


def _numbered(names, position):
    """Returns the name at a position, with a number if it is not the first of this name."""
    earlier = names[:position].count(names[position])
    return f"{names[position]}:{earlier + 1}" if earlier else names[position]


def _variables(optimizer):
    if not optimizer.built:
        raise ValueError(
            "The optimizer has no variables yet. "
            "Call `optimizer.build(model.trainable_variables)` first."
        )
    return optimizer._trainable_variables


def _now(optimizer, kind, index):
    factor = multipliers.now(optimizer.multiplier(kind, index), optimizer._iterations)
    return float(keras.ops.convert_to_numpy(factor))


def _rate(optimizer, index):
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    return rate * _now(optimizer, multipliers.LR, index)


def _decay(optimizer, index):
    inner = optimizer.inner_optimizer
    variable = optimizer._trainable_variables[index]
    decay = state.decay(inner, variable)
    if decay is None or not inner._use_weight_decay(variable):
        return 0.0
    return decay * _now(optimizer, multipliers.WEIGHT_DECAY, index)
