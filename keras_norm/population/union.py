"""The merge of the moments of many batches."""

from keras import ops

from keras_norm import engines
from keras_norm.ops import Moments, merge


class Union:
    """The merge of any number of parts, with an error and memory that grow with their logarithm.

    A sequential sum of n numbers has the error of n roundings, and a float32 count stops at 16
    million. So parts are merged `WIDTH` at a time, then the results `WIDTH` at a time, and so on,
    like digits that carry.

    A part is an array of shape (4, sets): the fields of `Moments`.
    """

    WIDTH = 16

    def __init__(self, model):
        self._merge = engines.compiled(merge_parts, model)
        self._levels = []

    def add(self, part, level=0):
        """Adds a part to a level, and merges the level when it is full."""
        if level == len(self._levels):
            self._levels.append([])
        waiting = self._levels[level]
        waiting.append(part)
        if len(waiting) == self.WIDTH:
            self.add(self._merged(level), level + 1)

    def result(self):
        """Returns the merge of all parts, and forgets them; None if there are none."""
        for level, waiting in enumerate(self._levels):
            if not waiting:
                continue
            if not any(self._levels[level + 1 :]):
                return self._merged(level)
            self.add(self._merged(level), level + 1)
        return None

    def _merged(self, level):
        waiting = self._levels[level]
        self._levels[level] = []
        empty = [ops.zeros_like(waiting[0])] * (self.WIDTH - len(waiting))
        return self._merge(waiting + empty)


def merge_parts(parts):
    """Returns the merge of parts of shape (4, sets)."""
    parts = ops.stack(parts, axis=1)
    return ops.concatenate(merge(Moments(*ops.unstack(parts, 4)), [0]))
