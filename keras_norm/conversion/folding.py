"""Folds normalization into neighbouring linear layers, for production."""

import collections

import keras

from keras_norm._contents import contents
from keras_norm.conversion import attention, linear
from keras_norm.conversion.affine import Folding
from keras_norm.conversion.arguments import change_of, check_layer
from keras_norm.conversion.copying import copied
from keras_norm.conversion.kinds import kind_of


def fold_normalization(model):
    """Returns a copy of a model for inference, with normalization folded into linear layers.

    In inference, batch normalization is a factor and an offset for each channel. It is folded into
    the layer before it, if this is a Dense layer or a convolution (1-D to 3-D, plain, transposed,
    depthwise or separable) without an activation; otherwise into the layers that follow. Other
    normalization layers compute moments in inference, so they remain. Their gamma and beta are
    folded into the layers that follow:

        dense(gamma * standardized + beta) = (kernel * gamma) standardized + (bias + kernel beta)

    The layers that follow must be Dense, EinsumDense or attention layers, or convolutions without
    padding. There can be several, such as query, key and value. Folding is exact except for
    rounding. It works on functional and Sequential models, including inner models, for the layers
    of keras_norm and of Keras. Layers with further uses do not change. A derived class that
    overrides `__init__` or `build` may need gamma and beta, so its layers keep them.

    The function prints the number of folded layers, and for each other normalization layer its name
    and a reason. `fold_batch_normalization` is the older name of this function.

    Args:
        model: A built Keras model. It does not change.

    Returns:
        The copy. Its outputs are those of `model` in inference. Train `model`, not the copy.

    Raises:
        TypeError: If `model` is not a Keras layer.
        ValueError: If a compiled function contains layers, which cannot be copied.

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
    >>> model = keras_norm.fold_normalization(model)
    Folded 1 of 1 normalization layers.
    >>> [layer.name for layer in model.layers]
    ['conv', 'relu']

    Reference:
        Jacob et al., "Quantization and training of neural networks for efficient
        integer-arithmetic-only inference", 2017, https://arxiv.org/abs/1712.05877, section 3.2
    """
    check_layer("model", model)
    model = copied(model)
    folded = 0
    # A round folds at most once into each layer; another round folds the rest.
    while (plan := _Plan(model)).folded:
        model = copied(model, plan.substitutes, plan.aliases, plan.dropped)
        folded += plan.folded
    print(f"Folded {folded} of {folded + len(plan.left)} normalization layers.")
    for name, why in plan.left:
        print(f"Left '{name}': {why}.")
    return model


fold_batch_normalization = fold_normalization


class _Plan:
    """The changes of one round of folding.

    Attributes:
        substitutes: `id`s of layers and variables, and their substitutes.
        aliases: `id`s of outputs of layers that disappear, and the inputs that replace them.
        folded: Number of folded layers.
        dropped: Layers that disappear, with their calls, and parameters that are folded.
        left: A list of the names of the other layers, each with the reason.
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
        found = []
        for x in contents(model):
            if isinstance(x, keras.Function):
                self._add_graph(x)
            elif isinstance(x, keras.layers.Layer):
                self._add_holder(x)
            if (folding := _folding_of(x)) is not None:
                found.append((x, folding))
        for layer, folding in found:
            if why_not := self._fold(layer, folding):
                self.left.append((layer.name, why_not))

    def _add_holder(self, layer):
        """Records the layers that a layer contains outside of graphs, and may call or read."""
        inner = layer._layers if not isinstance(layer, keras.Sequential) else ()
        if isinstance(layer, keras.layers.Lambda):
            inner = (x for x in contents(layer.function) if isinstance(x, keras.layers.Layer))
        self._holders.update((id(x), layer) for x in inner)

    def _add_graph(self, function):
        for nodes in function._nodes_by_depth.values():
            for node in nodes:
                self._calls[id(node.operation)].append(node)
                is_layer = isinstance(node.operation, keras.layers.Layer)
                if is_layer and node.arguments.kwargs.get("training"):
                    self._in_training.update(map(id, node.operation._flatten_layers()))
                for key in dict.fromkeys(map(id, node.arguments.keras_tensors)):
                    self._readers[key].append(node)
        for tensor in function.outputs:
            self._readers[id(tensor)].append(None)

    def _fold(self, layer, folding):
        """Folds a layer; returns the reason if it cannot be folded."""
        calls = self._calls[id(layer)]
        if not calls:
            return "it is not in the graph of a built model, so its neighbours are not known"
        if len(calls) > 1:
            return "it is shared by several calls"
        if id(layer) in self._in_training:
            return "it is called with training=True"
        if id(layer) in self._holders:
            return f"'{self._holders[id(layer)].name}' uses it too"
        if folding.why_not:
            return folding.why_not
        given, made = calls[0].arguments.keras_tensors[0], calls[0].outputs[0]
        axis = folding.axis % len(given.shape)
        if not folding.disappears:
            return self._fold_into_all_after(layer, folding, made, axis)
        previous = given._keras_history.operation
        why_not_before = self._why_not(previous) or linear.why_not_before(previous, axis)
        if len(self._readers[id(given)]) > 1:
            why_not_before = "has outputs that other layers read too"
        elif not why_not_before and previous.compute_dtype != layer.compute_dtype:
            why_not_before = f"computes in {previous.compute_dtype}"
        if not why_not_before:
            mapped = linear.with_outputs_mapped(previous, folding.factor, folding.shift, axis)
            return self._put([(previous, mapped)], layer, folding)
        why_not_before = f"the layer before it, '{previous.name}', {why_not_before}"
        why_not_after = self._fold_into_all_after(layer, folding, made, axis)
        return why_not_after and f"{why_not_before}; and {why_not_after}"

    def _fold_into_all_after(self, layer, folding, made, axis):
        readers = self._readers[id(made)]
        if not readers or None in readers:
            return "its output is an output of the model"
        neighbours = [(node.operation, attention.reads(node, made)) for node in readers]
        for neighbour, reads in neighbours:
            why_not = self._why_not(neighbour) or linear.why_not_after(neighbour, axis, reads)
            if why_not:
                return f"the layer after it, '{neighbour.name}', {why_not}"
        mapped = [
            (x, linear.with_inputs_mapped(x, folding.factor, folding.shift, axis, reads))
            for x, reads in neighbours
        ]
        return self._put(mapped, layer, folding)

    def _why_not(self, neighbour):
        """Returns why a neighbour cannot change; or None."""
        if len(self._calls[id(neighbour)]) > 1:
            return "is shared by several calls"
        if id(neighbour) in self._holders:
            return f"is used by '{self._holders[id(neighbour)].name}' too"
        if id(neighbour) in self.substitutes:
            return "already contains another one"
        return change_of(neighbour, type(neighbour))

    def _put(self, mapped, layer, folding):
        """Replaces neighbours with layers that include the map.

        Args:
            mapped: List of pairs: a neighbour, and the layer and variables that replace it.
            layer: The normalization layer.
            folding: Its `Folding`.
        """
        self.folded += 1
        for neighbour, replacement in mapped:
            self._substitute(neighbour, *replacement)
        if folding.disappears:
            self.dropped += [layer, *layer._inbound_nodes]
            for node in layer._inbound_nodes:
                self.aliases[id(node.outputs[0])] = node.arguments.keras_tensors[0]
        else:
            self._substitute(layer, *folding.rest())
            self.dropped += layer.weights

    def _substitute(self, layer, new, variables):
        self.substitutes[id(layer)] = new
        self.substitutes.update((id(before), after) for before, after in variables)


def _folding_of(layer):
    """Returns the `Folding` of a normalization layer; None if `layer` has nothing to fold."""
    kind = kind_of(layer)
    if kind is None:
        return None
    parent, described = kind.parent_of(layer), f"it ({type(layer).__name__})"
    if change := change_of(layer, parent):
        return Folding(layer, f"{described} {change}")
    folding = kind.folding(layer)
    if folding is not None and not folding.disappears:
        # `Folding.rest` makes another layer of the class, without parameters.
        for name in ("__init__", "build"):
            if getattr(type(layer), name) is not getattr(parent, name):
                why_not = f"{described} overrides `{name}`, which may need gamma and beta"
                return Folding(layer, why_not)
    return folding
