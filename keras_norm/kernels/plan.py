"""One form for all problems: (samples, before, groups, group size, after).

Each axis of an input belongs to one of four parts:

- *positions*: the axes of a set that gamma and beta do not span;
- *members* of a group of channels: the axes of a set that gamma and beta span;
- *groups*: the other axes that gamma and beta span;
- *samples*: all other axes.

Most problems have these parts in one order, so that neighbouring axes of a part can be viewed as
one:

    samples, positions before the channels, groups, members, positions after the channels

A set is one group of one sample: `before * group_size * after` elements. A part that a problem
lacks has size 1:

| problem                                   | samples | before | groups | group size | after |
| ----------------------------------------- | ------- | ------ | ------ | ---------- | ----- |
| batch, (N, H, W, C)                       | 1       | N H W  | C      | 1          | 1     |
| batch, (N, C, H, W)                       | 1       | N      | C      | 1          | H W   |
| layer over channels, (N, T, C)            | N T     | 1      | 1      | C          | 1     |
| layer over all, (N, H, W, C)              | N       | H W    | 1      | C          | 1     |
| group, (N, H, W, C), C = G M              | N       | H W    | G      | M          | 1     |
| channel-wise, (N, C, H, W)                | N       | 1      | C      | 1          | H W   |

This module is independent of the backend: a plan consists of sizes, and executors do the reshaping.
"""

import functools
import math
from typing import NamedTuple

SAMPLES, BEFORE, GROUPS, MEMBERS, AFTER = range(5)


class Form(NamedTuple):
    """Sizes of the five parts; None for a part of unknown size."""

    samples: int | None
    before: int | None
    groups: int | None
    group_size: int | None
    after: int | None

    @property
    def count(self):
        """The number of elements in a set; None if unknown."""
        return _product((self.before, self.group_size, self.after))

    @property
    def is_batch(self):
        """Whether sets are single channels that all samples share."""
        return self.samples == self.group_size == 1

    @property
    def channels(self):
        """The number of entries of gamma; None if unknown."""
        return _product((self.groups, self.group_size))


class Mask(NamedTuple):
    """How a mask covers the form.

    Attributes:
        expanded: Sizes of the mask, in the order of the plan, after it is broadcast to all axes of
            each part that it covers only partly.
        form: The sizes that the result is viewed in: the form's, or 1 where it is broadcast.
    """

    expanded: tuple
    form: Form

    @property
    def is_by_set(self):
        """Whether all elements of a set have the same mask value: sets are valid as a whole."""
        return self.form.before == self.form.after == 1


class Plan(NamedTuple):
    """A problem in one form.

    Attributes:
        order: The axes of the input in the order of the form.
        sizes: Sizes of the input in this order.
        form: `Form` that the input, so ordered, is viewed in.
        parts: The part (`SAMPLES` to `AFTER`) of each axis, in this order.
        moments: Sizes of the moments, in this order: 1 along the axes of a set.
        mask: `Mask`, or None.
    """

    order: tuple
    sizes: tuple
    form: Form
    parts: tuple
    moments: tuple
    mask: Mask | None

    def sizes_of(self, part):
        """Returns the sizes of the axes of a part, without those of size 1."""
        pairs = zip(self.sizes, self.parts, strict=True)
        return tuple(size for size, own in pairs if own == part and size != 1)

    @property
    def counts(self):
        """Sizes of the counts of masked sets: those of the moments, and 1 for the channels."""
        pairs = zip(self.sizes, self.parts, strict=True)
        return tuple(size if part == SAMPLES else 1 for size, part in pairs)

    @property
    def is_ordered(self):
        """Whether the input has its axes in the order of the form."""
        return self.order == tuple(range(len(self.order)))

    @property
    def inverse(self):
        """The permutation that takes the order of the form back to the input's."""
        return tuple(sorted(range(len(self.order)), key=self.order.__getitem__))

    @property
    def is_rows(self):
        """Whether the sets are rows of a matrix, and gamma and beta belong to its columns."""
        form = self.form
        return form.before == form.groups == form.after == 1


@functools.lru_cache(maxsize=4096)
def plan(problem, order=None):
    """Returns the `Plan` of a problem, or None where it does not have the form.

    Args:
        problem: `Problem`.
        order: None, or the order of axes that the plan shall have: from the slowest to the fastest
            in memory, where a backend knows the input's layout.
    """
    rank = len(problem.shape)
    order = tuple(range(rank)) if order is None else tuple(order)
    parts = _parts(problem, order)
    if parts is None:
        # A layer over channels that come first: move the samples before the channels.
        order = tuple(sorted(order, key=lambda axis: not _is_sample(problem, axis)))
        parts = _parts(problem, order)
        if parts is None:
            return None
    parts = _with_members(problem, order, parts)
    members: list[list[int]] = [[], [], [], [], []]
    for axis, part in zip(order, parts, strict=True):
        members[part].append(axis)
    form = Form(*(_product(problem.shape[axis] for axis in axes) for axes in members))
    mask = None
    if problem.mask is not None:
        mask = _mask(problem, order, members)
        if mask is None:
            return None
    return Plan(
        order,
        tuple(problem.shape[axis] for axis in order),
        form,
        tuple(parts),
        tuple(1 if axis in problem.axes else problem.shape[axis] for axis in order),
        mask,
    )


def order_of_parts(problem):
    """Returns the axes in the order of the parts, for an input that is copied into this order."""
    spanned = problem.gamma_axes or problem.beta_axes or ()
    axes = range(len(problem.shape))
    return tuple(sorted(axes, key=lambda axis: (axis in spanned, axis in problem.axes)))


def _parts(problem, order):
    """Returns the part that each axis, in the given order, belongs to; None if out of order."""
    spans = {axes for axes in (problem.gamma_axes, problem.beta_axes) if axes is not None}
    if len(spans) > 1:
        return None
    (spanned,) = spans or {None}
    if spanned is None and _are_rows(problem, order):
        spanned = problem.axes
    parts: list[int] = []
    current = SAMPLES
    for axis in order:
        if problem.shape[axis] != 1:
            is_position = axis in problem.axes and (spanned is None or axis not in spanned)
            if is_position:
                part = BEFORE if current <= BEFORE else AFTER
            elif axis in problem.axes:
                part = MEMBERS
            elif spanned is None:
                part = SAMPLES if current == SAMPLES else GROUPS
            else:
                part = GROUPS if axis in spanned else SAMPLES
            if part < current:
                return None
            current = part
        parts.append(current)
    return parts


def _with_members(problem, order, parts):
    """Returns the parts; without gamma and beta, few positions after the groups become members.

    Channels that are the last axes of an input are then one axis, as they are with gamma and beta.
    """
    if problem.gamma_axes is not None or problem.beta_axes is not None or MEMBERS in parts:
        return parts

    def sizes(part, of):
        return [of[axis] for axis, own in zip(order, parts, strict=True) if own == part]

    before, after = (_product(sizes(part, problem.shape)) for part in (BEFORE, AFTER))
    is_covered = problem.mask is not None and any(n != 1 for n in sizes(AFTER, problem.mask))
    if before is None or after is None or after >= before or is_covered:
        return parts
    return [MEMBERS if part == AFTER else part for part in parts]


def _is_sample(problem, axis):
    """Returns whether no set extends over an axis, and neither gamma nor beta spans it."""
    spanned = (problem.gamma_axes or ()) + (problem.beta_axes or ())
    return axis not in problem.axes and axis not in spanned


def _are_rows(problem, order):
    """Returns whether sets without gamma and beta are the last axes, each masked as a whole.

    Rows have a known size, as gamma and beta have.
    """
    sizes = [problem.shape[axis] for axis in problem.axes]
    is_last = set(order[-len(sizes) :]) == set(problem.axes) and None not in sizes
    return is_last and (problem.mask is None or all(problem.mask[a] == 1 for a in problem.axes))


def _mask(problem, order, members):
    """Returns how the mask covers the form; None if it differs between the channels of a set."""
    if any(problem.mask[axis] != 1 for part in (GROUPS, MEMBERS) for axis in members[part]):
        return None
    expanded = dict(enumerate(problem.mask))
    sizes = [1] * 5
    for part in (SAMPLES, BEFORE, AFTER):
        if any(problem.mask[axis] != 1 for axis in members[part]):
            expanded.update({axis: problem.shape[axis] for axis in members[part]})
            sizes[part] = _product(problem.shape[axis] for axis in members[part])
    return Mask(tuple(expanded[axis] for axis in order), Form(*sizes))


def _product(sizes):
    """Returns the product of sizes; None if one is unknown."""
    sizes = tuple(sizes)
    return None if None in sizes else math.prod(sizes)
