"""The observer that layers report to during a pass."""

import threading

from keras import ops

from keras_norm import engines
from keras_norm.population.union import merge_parts


def not_visible(layer):
    """Returns the error for a layer that is called where a pass cannot see it."""
    return RuntimeError(
        f"A pass over data cannot see the layer '{layer.name}', which is called in a transformed "
        "function (`vmap`, `jax.checkpoint`, the loop of an RNN, ...). Call the layer outside of "
        "that function (`unroll=True` for an RNN), or set `trainable=False` on the layer, which "
        "then keeps its statistics."
    )


class Observer:
    """Collects the moments of `BatchNormalization` layers for population statistics.

    Attributes:
        uses_batch: Whether the layers standardize with the batch's moments, or as in inference.
        merges_replicas: Whether the parts of all processes are merged after a pass. Synchronized
            layers then use the moments of their own process, as processes may differ in their
            number of batches.
        is_blocked: Whether a layer was called where the pass cannot see it.
        unseen: The layers that the last run or trace of a batch did not call.
    """

    def __init__(self):
        self.uses_batch = True
        self.merges_replicas = False
        self.is_blocked = False
        self.unseen = []
        self._accumulators = {}
        # `tf.distribute` runs replicas in separate threads, one at a time.
        self._local = threading.local()

    def prepare(self, layers):
        """Creates the variables for loops and branches, which tensors cannot leave."""
        # Compiled steps refer to these variables, so a later pass keeps them.
        for layer in layers:
            if id(layer) not in self._accumulators:
                shape = (4, layer.num_channels)
                self._accumulators[id(layer)] = engines.accumulator(shape)

    def start(self):
        """Forgets the moments of an earlier batch."""
        self._local.trace = engines.trace()
        self._local.uses = {}
        self._local.nestings = {}

    def record(self, layer, moments):
        """Records the moments of one use of a layer, whose sets may have different counts."""
        channels = (layer.num_channels,)
        fields = [ops.broadcast_to(ops.reshape(moments.count, (-1,)), channels)]
        fields += [ops.reshape(field, channels) for field in moments[1:]]
        part = ops.stack(fields)
        nesting = engines.nesting(self._local.trace)
        if nesting == "none":
            self._local.uses.setdefault(id(layer), []).append(part)
        elif nesting != "function":
            accumulator = self._accumulators[id(layer)]
            accumulator.assign(merge_parts([accumulator.read_value(), part]))
            self._local.nestings.setdefault(id(layer), set()).add(nesting)
        else:
            # The error also keeps the function from being cached with the observer in it.
            self.is_blocked = True
            raise not_visible(layer)

    def parts(self, layers):
        """Returns the moments of all uses of each of the layers, and forgets them."""
        seen = self._local.uses.keys() | self._local.nestings.keys()
        self.unseen = [layer for layer in layers if id(layer) not in seen]
        parts = [self._part(layer) for layer in layers]
        self._local.uses = {}
        return parts

    def _part(self, layer):
        uses = self._local.uses.get(id(layer), [])
        nestings = self._local.nestings.get(id(layer), ())
        if "loop" in nestings:
            # Keras calls the step once more before a loop, to find the shapes.
            uses = []
        if nestings:
            accumulator = self._accumulators[id(layer)]
            uses = [*uses, accumulator.read_value()]
            accumulator.assign(ops.zeros((4, layer.num_channels)))
        if not uses:
            return ops.zeros((4, layer.num_channels))
        return uses[0] if len(uses) == 1 else merge_parts(uses)
