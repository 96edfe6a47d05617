"""Learning rates that decay from a model's output to its input."""

import itertools
import re

import keras

from keras_norm import multipliers
from keras_norm._validation import shown


def layerwise_lr_decay(model, decay, blocks=None, min_multiplier=0.0):
    r"""Sets learning-rate multipliers that decay from a model's output to its input.

    With n blocks, numbered from 1 at the input, the weights of block i get the learning-rate
    multiplier

        max(decay ** (n - i), min_multiplier)

    The last block keeps the full rate, and each other block gets `decay` times the rate of the next
    one. Without `blocks`, each layer is a block. Layers are in the order of `model.layers`; the
    layers of an inner model count separately, and weights that several layers share belong to the
    first. Weights that belong to a model but to none of its layers, such as position embeddings,
    count as a layer before the others. Earlier multipliers are replaced.

    Only trainable blocks count: blocks without weights, or with only frozen weights, are not a step
    of decay. Frozen weights get the multiplier of the next counted block towards the output. If all
    weights are frozen, all blocks count. To train frozen layers later, call this function before
    they are frozen, or use a schedule with rate 0 in place of freezing.

    Args:
        model: A built Keras model.
        decay: Ratio of neighbouring blocks' rates, a finite number >= 0; usually 0.65 to 0.95.
        blocks: Layers that form a block. A function from a layer to the name of its block, or to
            None for a separate block. Or a regular expression that is searched in the layer's
            name: layers with the same first group, or the same match if there is no group, form a
            block, and layers without a match are separate blocks. A block has the position of its
            first layer. None makes each layer a block.
        min_multiplier: Smallest multiplier, a finite number >= 0.

    Raises:
        TypeError: If `model` is not a Keras model, or another argument has the wrong type.
        ValueError: If the model has no weights yet, a number is negative or not finite, or
            `blocks` is not a regular expression or matches no layer.

    Example:
    >>> import keras, keras_norm
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="block1_a"),
    ...     keras.layers.Dense(8, name="block1_b"), keras.layers.Dense(2, name="head")])
    >>> keras_norm.layerwise_lr_decay(model, 0.5)
    >>> [weight.lr_multiplier for weight in model.weights]
    [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    >>> keras_norm.layerwise_lr_decay(model, 0.5, blocks=r"block(\d+)_")
    >>> [weight.lr_multiplier for weight in model.weights]
    [0.5, 0.5, 0.5, 0.5, 1.0, 1.0]

    Reference:
        Howard and Ruder, "Universal language model fine-tuning for text classification", 2018,
        https://arxiv.org/abs/1801.06146, which calls it discriminative fine-tuning
    """
    multipliers.weights_of("model", "model", model, keras.Model)
    decay = _number("decay", decay)
    min_multiplier = _number("min_multiplier", min_multiplier)
    seen: set[int] = set()
    found: dict = {}
    block_of, matched = _block_function(blocks)
    for number, (layer, weights) in enumerate(_weights_by_layer(model)):
        new = [weight for weight in weights if id(weight) not in seen]
        seen.update(map(id, new))
        if new:
            key = None if layer is None else block_of(layer)
            found.setdefault((number, None) if key is None else key, []).extend(new)
    if isinstance(blocks, str) and not matched:
        names = [layer.name for layer, weights in _weights_by_layer(model) if layer and weights]
        raise ValueError(
            f"Argument `blocks` must match the name of a layer. Received: blocks={shown(blocks)}; "
            f"the layers with weights are {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        )
    trained = {id(weight) for weight in model.trainable_weights}
    counts = [any(id(weight) in trained for weight in weights) for weights in found.values()]
    if not any(counts):
        counts = [True] * len(counts)
    # The number of counted blocks after each one.
    after = [0, *itertools.accumulate(reversed(counts))]
    for weights, follow in zip(reversed(found.values()), after[:-1], strict=True):
        for weight in weights:
            multipliers.set_multipliers(weight, lr=max(decay**follow, min_multiplier))


def _number(name, value):
    if multipliers.is_schedule(value):
        raise TypeError(f"Argument `{name}` must be a number. Received: a schedule")
    return multipliers.checked_multiplier(name, value)


def _block_function(blocks):
    """Returns a function from a layer to its block, and a list that receives its matches."""
    matched: list = []
    if blocks is None:
        return (lambda layer: None), matched
    if callable(blocks):
        return blocks, matched
    if not isinstance(blocks, str):
        raise TypeError(
            "Argument `blocks` must be a function of a layer, a regular expression or None. "
            f"Received: {shown(blocks)} (of type {type(blocks).__name__})"
        )
    try:
        pattern = re.compile(blocks)
    except re.error as error:
        raise ValueError(
            f"Argument `blocks` must be a regular expression. Received: {shown(blocks)}: {error}"
        ) from error

    def block(layer):
        match = pattern.search(layer.name)
        if match is None:
            return None
        matched.append(match)
        return match.group(1 if pattern.groups else 0)

    return block, matched


def _weights_by_layer(layer):
    """Returns pairs of a layer and its weights; a model's own weights come first, with None."""
    if not isinstance(layer, keras.Model):
        return [(layer, layer.weights)]
    found = [pair for child in layer.layers for pair in _weights_by_layer(child)]
    known = {id(weight) for _, weights in found for weight in weights}
    return [(None, [weight for weight in layer.weights if id(weight) not in known]), *found]
