"""How a tensor lies in memory, and which sets of elements that makes."""

import functools
import math
import re

import torch

from keras_norm import ops
from keras_norm.kernels.torch.sets import Channels, Rows


class Layout:
    """How a tensor lies in memory: which of its axes are which in the view that kernels take."""

    def __init__(self, sizes, order, axes, sets):
        self.sets = sets
        self._order = order
        self._is_ordered = list(order) == sorted(order)
        self._back = sorted(range(len(order)), key=order.__getitem__)
        self._sizes = tuple(sizes[axis] for axis in order)
        self._moments_sizes = [1 if axis in axes else sizes[axis] for axis in order]

    def views(self, x, gamma, beta):
        """Returns the input as the kernels take it, gamma and beta flat."""
        view = _viewed(self._sorted(x).contiguous(), self.sets.view_shape)
        return view, self._flat(gamma), self._flat(beta)

    def unview(self, view):
        """Returns an output of a kernel in the shape and order of the input."""
        return self._unsorted(_viewed(view, self._sizes))

    def moments(self, shift, mean, variance, inverse, epsilon):
        """Returns what `sets` found in a view as `Moments` of the input."""
        if variance is None:
            variance = (inverse**-2 - epsilon).clamp_(min=0)
        if shift is None:
            shift, mean = mean, torch.zeros_like(mean)
        fields = (self._unsorted(v.view(self._moments_sizes)) for v in (shift, mean, variance))
        return ops.Moments(mean.new_tensor(self.sets.count), *fields)

    def _flat(self, parameter):
        return None if parameter is None else self._sorted(parameter).reshape(-1).contiguous()

    def _sorted(self, x):
        return x if self._is_ordered else x.permute(self._order)

    def _unsorted(self, x):
        return x if self._is_ordered else x.permute(self._back)


def _viewed(x, sizes):
    # Every view is a step of the backward pass.
    return x if x.shape == sizes else x.view(sizes)


def layout_of(x, axes, gamma, beta):
    """Returns the `Layout` of a problem, or None if no kernel knows it."""
    gamma, beta = (None if v is None else tuple(v.shape) for v in (gamma, beta))
    if None not in (gamma, beta) and gamma != beta:
        return None
    return _layout(tuple(x.shape), x.stride(), tuple(axes), gamma or beta)


@functools.lru_cache(maxsize=1024)
def _layout(sizes, strides, axes, parameters):
    # Runs of axes, as they lie in memory, in letters: B and G are kept, S and D are reduced; G and
    # D are spanned by gamma and beta.
    order = sorted(range(len(sizes)), key=lambda axis: -strides[axis])
    letters, lengths = "", []
    for axis in order:
        if sizes[axis] > 1:
            spanned = parameters is not None and parameters[axis] > 1
            letter = ("G" if spanned else "B", "D" if spanned else "S")[axis in axes]
            if letters.endswith(letter):
                lengths[-1] *= sizes[axis]
            else:
                letters += letter
                lengths.append(sizes[axis])
    sets = _sets(letters, lengths, parameters)
    return None if sets is None else Layout(sizes, order, axes, sets)


def _sets(letters, lengths, parameters):
    """Returns the sets of a problem that its letters describe, or None."""
    if (parameters is None and letters in ("S", "BS")) or letters in ("D", "BD"):
        return Rows(math.prod(lengths[:-1]), lengths[-1])
    if parameters is None:
        letters = letters.replace("B", "G")  # a kept axis may count as spanned
    match = re.fullmatch("(B?)(S?)(G?)(D?)(S?)", letters)
    if not match or not {"S", "D"} & set(letters):
        return None
    remaining = iter(lengths)
    return Channels(*(next(remaining) if letter else 1 for letter in match.groups()))
