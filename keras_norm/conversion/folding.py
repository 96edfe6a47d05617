"""Batch normalization folded into the linear layers beside it, for production."""

import collections

import keras
import numpy as np

from keras_norm import layers
from keras_norm.conversion import linear
from keras_norm.conversion.copying import contents, copied

_BATCH_NORMALIZATIONS = (keras.layers.BatchNormalization, layers.BatchNormalization)


def fold_batch_normalization(model):
    """Returns a copy of a model for inference, without the batch normalization it can do without.

    In inference batch normalization is a factor and an offset for each channel. Where the layer
    before it is a convolution (1-D to 3-D, also transposed, depthwise or separable) or a Dense
    layer without an activation, these move into its kernel and bias; else into those of the
    Dense layer or convolution without padding that follows. That is exact up to rounding. It
    works on functional and Sequential models, also on those inside other models, for our layer
    and for Keras's. Layers that something else uses as well stay as they are.

    Prints how many layers were folded, and for each that was left its name and why.

    Args:
        model: A built Keras model. It is left as it is.

    Returns:
        The copy. Its outputs are those that `model` has in inference; train `model`, not it.

    Raises:
        TypeError: If `model` is no Keras layer.
        ValueError: If layers are in a compiled function, where nothing can reach them.

    Example:
    >>> import keras, keras_norm
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8, 8, 3)),
    ...         keras.layers.Conv2D(4, 3, use_bias=False, name="conv"),
    ...         keras_norm.BatchNormalization(name="norm"),
    ...         keras.layers.ReLU(name="relu"),
    ...     ]
    ... )
    >>> model = keras_norm.fold_batch_normalization(model)
    Folded 1 of 1 batch normalization layers.
    >>> [layer.name for layer in model.layers]
    ['conv', 'relu']

    Reference:
        Jacob et al., "Quantization and training of neural networks for efficient
        integer-arithmetic-only inference", 2017, https://arxiv.org/abs/1712.05877, section 3.2
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            f"Argument `model` must be a Keras model or layer. Received: {model!r} "
            f"(of type {type(model).__name__})"
        )
    model = copied(model)
    folded = 0
    # A round folds once into each layer; where several would go into one, there is another round.
    while (plan := _Plan(model)).folded:
        model = copied(model, plan.substitutes, plan.aliases, plan.dropped)
        folded += plan.folded
    print(f"Folded {folded} of {folded + len(plan.left)} batch normalization layers.")
    for name, why in plan.left:
        print(f"Left '{name}': {why}.")
    return model


class _Plan:
    """What one round folds.

    Attributes:
        substitutes: `id`s of layers and variables, and what takes their place.
        aliases: `id`s of outputs of folded layers, and the inputs that take their place.
        folded: How many layers are folded.
        dropped: Folded layers, and their calls.
        left: A list of the names of the layers that stay, each with the reason why.
    """

    def __init__(self, model):
        self.substitutes = {}
        self.aliases = {}
        self.folded = 0
        self.dropped = []
        self.left = []
        self._calls = collections.defaultdict(list)
        self._readers = collections.defaultdict(list)
        self._holders = {}
        self._in_training = set()
        layers_found = []
        for x in contents(model):
            if isinstance(x, keras.Function):
                self._add_graph(x)
            elif isinstance(x, keras.layers.Layer):
                self._add_holder(x)
            if isinstance(x, _BATCH_NORMALIZATIONS):
                layers_found.append(x)
        for layer in layers_found:
            why_not = self._fold(layer)
            if why_not:
                self.left.append((layer.name, why_not))

    def _add_holder(self, layer):
        """Notes what a layer has besides graphs: it may call that, or read its variables."""
        held = layer._layers if not isinstance(layer, keras.Sequential) else ()
        if isinstance(layer, keras.layers.Lambda):
            held = (x for x in contents(layer.function) if isinstance(x, keras.layers.Layer))
        self._holders.update((id(x), layer) for x in held)

    def _add_graph(self, function):
        for nodes in function._nodes_by_depth.values():
            for node in nodes:
                self._calls[id(node.operation)].append(node)
                is_layer = isinstance(node.operation, keras.layers.Layer)
                if is_layer and node.arguments.kwargs.get("training"):
                    self._in_training.update(map(id, node.operation._flatten_layers()))
                for tensor in node.arguments.keras_tensors:
                    self._readers[id(tensor)].append(node.operation)
        for tensor in function.outputs:
            self._readers[id(tensor)].append(None)

    def _fold(self, layer):
        """Folds a layer; returns why not, if it cannot."""
        calls = self._calls[id(layer)]
        if not calls:
            return "it is in no graph of a built model, so its neighbours are not known"
        if len(calls) > 1:
            return "it is shared by several calls"
        if id(layer) in self._in_training:
            return "it is called with training=True"
        if id(layer) in self._holders:
            return f"'{self._holders[id(layer)].name}' uses it, too"
        given, made = calls[0].arguments.keras_tensors[0], calls[0].outputs[0]
        axis = layer.axis % len(given.shape)
        previous = given._keras_history.operation
        why_not_before = self._why_not(previous, given) or linear.why_not_before(previous, axis)
        if not why_not_before and previous.compute_dtype != layer.compute_dtype:
            why_not_before = f"computes in {previous.compute_dtype}"
        if not why_not_before:
            return self._put(linear.with_outputs_mapped, previous, layer)
        why_not = f"the layer before it, '{previous.name}', {why_not_before}"
        following = self._readers[id(made)][0]
        if following is None:
            return f"{why_not}; and it makes an output of the model"
        why_not_after = self._why_not(following, made) or linear.why_not_after(following, axis)
        if not why_not_after:
            return self._put(linear.with_inputs_mapped, following, layer)
        return f"{why_not}; the one after it, '{following.name}', {why_not_after}"

    def _why_not(self, neighbour, tensor):
        """Says why a neighbour on the other side of `tensor` cannot change; or None."""
        if len(self._readers[id(tensor)]) > 1:
            return "is not the only one beside it"
        if len(self._calls[id(neighbour)]) > 1:
            return "is shared by several calls"
        if id(neighbour) in self._holders:
            return f"is used by '{self._holders[id(neighbour)].name}', too"
        return "has taken up another one" if id(neighbour) in self.substitutes else None

    def _put(self, mapped, neighbour, layer):
        new, variables = mapped(neighbour, *_factor_and_shift(layer))
        self.folded += 1
        self.substitutes[id(neighbour)] = new
        self.substitutes.update((id(before), after) for before, after in variables)
        self.dropped += [layer, *layer._inbound_nodes]
        for node in layer._inbound_nodes:
            self.aliases[id(node.outputs[0])] = node.arguments.keras_tensors[0]


def _factor_and_shift(layer):
    """Returns what batch normalization multiplies channels by in inference, and adds to them."""
    mean, variance, gamma, beta = (
        None if variable is None else keras.ops.convert_to_numpy(variable).astype("float64")
        for variable in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
    )
    factor = (1 if gamma is None else gamma) / np.sqrt(variance + layer.epsilon)
    return factor, (0 if beta is None else beta) - mean * factor
