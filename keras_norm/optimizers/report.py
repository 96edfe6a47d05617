"""What a `MultiplierOptimizer` does to each variable, as it is now."""

import re

import keras

from keras_norm import multipliers


def path(variable):
    """Returns a variable's path, or the name of one of TensorFlow's own."""
    return getattr(variable, "path", variable.name)


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
        rows.setdefault(key, []).append(path(variable))
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
    """Returns the learning rate of each group of variables, as it is now, by the group's name.

    A group is what a pattern of `lr_multipliers` matches, else a layer, else, where the weights
    of a layer have several rates, a weight. Layers of one name go by their paths.
    """
    rates: dict[tuple, dict[str, float]] = {}
    for index, variable in enumerate(_variables(optimizer)):
        layer, _, name = path(variable).rpartition("/")
        pattern = _pattern(optimizer, index)
        key = ("pattern", pattern) if pattern is not None else ("layer", layer)
        rates.setdefault(key, {})[name] = _rate(optimizer, index)
    layers = [name for kind, name in rates if kind == "layer"]
    short = [name.rpartition("/")[2] for name in layers]
    found = {}
    for (kind, name), by_weight in rates.items():
        if kind == "layer" and short.count(name.rpartition("/")[2]) == 1:
            name = name.rpartition("/")[2]
        if len(set(by_weight.values())) == 1:
            found[name] = next(iter(by_weight.values()))
        else:
            found |= {f"{name}/{weight}": rate for weight, rate in by_weight.items()}
    return found


def _variables(optimizer):
    if not optimizer.built:
        raise ValueError(
            "The optimizer has no variables yet. "
            "Call `optimizer.build(model.trainable_variables)` first."
        )
    return optimizer._trainable_variables


def _pattern(optimizer, index):
    """Returns the pattern that gave a variable its rate, or None."""
    place = path(optimizer._trainable_variables[index])
    return next((p for p in optimizer.lr_multipliers if p == place or re.fullmatch(p, place)), None)


def _now(optimizer, kind, index):
    factor = multipliers.now(optimizer.multiplier(kind, index), optimizer._iterations)
    return float(keras.ops.convert_to_numpy(factor))


def _rate(optimizer, index):
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    return rate * _now(optimizer, multipliers.LR, index)


def _decay(optimizer, index):
    inner = optimizer.inner_optimizer
    variable = optimizer._trainable_variables[index]
    if inner.weight_decay is None or not inner._use_weight_decay(variable):
        return 0.0
    return inner.weight_decay * _now(optimizer, multipliers.WEIGHT_DECAY, index)
