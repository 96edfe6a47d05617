"""The shared table of problems, which every executor must solve or decline.

`CASES` has every kind with every mask, channels first and last, in float32, and besides these every
pair of two properties (mask and dtype, dtype and rank, ...), with as few cases as do.
"""

import itertools
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (NumPy learns of bfloat16)
import numpy as np

from tests import oracle

GROUPS, GROUP_SIZE = 2, 3
CHANNELS = GROUPS * GROUP_SIZE
# Sizes that divide badly; the batch first.
SIZES = (5, 7, 3, 2, 3)
EPSILON = 1e-3

PROPERTIES = {
    "kind": ("batch", "layer", "channels", "group", "channel-wise", "rms"),
    "channels": ("last", "first"),
    "rank": (2, 3, 4, 5, 6),
    "mask": ("none", "leading", "positions", "full", "empty sets"),
    "dtype": ("float32", "float16", "bfloat16", "float64"),
    "parameters": ("both", "gamma", "beta", "none"),
    "sizes": ("known", "open"),
}


class Case(NamedTuple):
    """One problem; the fields are those of `PROPERTIES`."""

    kind: str
    channels: str
    rank: int
    mask: str
    dtype: str
    parameters: str
    sizes: str

    def __str__(self):
        return " ".join(map(str, self))

    @property
    def is_possible(self):
        # Inputs of rank 2 have no positions: each set of a channel-wise problem has one element.
        return not (self.rank == 2 and (self.kind == "channel-wise" or self.channels == "first"))


class Arrays(NamedTuple):
    """The tensors of a case as NumPy arrays, and the axes of a set."""

    x: np.ndarray
    gamma: np.ndarray | None
    beta: np.ndarray | None
    weights: np.ndarray | None
    upstream: np.ndarray
    axes: tuple


def _main_cases():
    """Returns every kind with every mask in float32; the other properties take turns."""
    turns = itertools.count()
    for kind, channels, mask in itertools.product(
        *(PROPERTIES[name] for name in ("kind", "channels", "mask"))
    ):
        turn = next(turns)
        yield Case(
            kind,
            channels,
            3 + turn % 3,
            mask,
            "float32",
            "both" if turn % 4 else PROPERTIES["parameters"][turn // 4 % 4],
            PROPERTIES["sizes"][turn // 5 % 2],
        )


def _covering_cases(cases):
    """Returns cases that cover, with the given ones, every possible pair of two properties."""
    possible = [Case(*values) for values in itertools.product(*PROPERTIES.values())]
    possible = [case for case in possible if case.is_possible]

    def pairs(case):
        return set(itertools.combinations(enumerate(case), 2))

    order = np.random.default_rng(0).permutation(len(possible))
    remaining = set().union(*map(pairs, possible)).difference(*map(pairs, cases))
    while remaining:
        best = max((possible[i] for i in order), key=lambda case: len(pairs(case) & remaining))
        remaining -= pairs(best)
        cases.append(best)
    return cases


def arrays(case):
    """Returns the `Arrays` of a case: float32 where it has 16 bits, rounded to these."""
    rng = np.random.default_rng(0)
    batch, *positions = SIZES[: case.rank - 1]
    channels = (GROUPS, GROUP_SIZE) if case.kind == "group" else (CHANNELS,)
    inner = (*channels, *positions) if case.channels == "first" else (*positions, *channels)
    shape = (batch, *inner)
    start = 1 if case.channels == "first" else len(shape) - len(channels)
    spanned = tuple(range(start, start + len(channels)))
    # Channels near and far from zero in one call, as far as 16 bits can tell deviations apart.
    far = {"float16": 30.0, "bfloat16": 3.0}.get(case.dtype, 1e4)
    means = np.resize([0.0, far, 1.0], channels)
    means = means.reshape([n if a in spanned else 1 for a, n in enumerate(shape)])
    x = rng.standard_normal(shape) + means
    parameter_shape = [n if axis in spanned else 1 for axis, n in enumerate(shape)]
    gamma = rng.uniform(0.5, 1.5, parameter_shape)
    beta = rng.standard_normal(parameter_shape)
    upstream = rng.standard_normal(shape) + 0.3
    computed = "float64" if case.dtype == "float64" else "float32"
    x, upstream = (v.astype(case.dtype).astype(computed) for v in (x, upstream))
    return Arrays(
        x,
        gamma.astype(computed) if case.parameters in ("both", "gamma") else None,
        beta.astype(computed) if case.parameters in ("both", "beta") else None,
        _weights(case.mask, shape, spanned, rng),
        upstream,
        _axes(case.kind, len(shape), spanned),
    )


def _axes(kind, rank, spanned):
    if kind in ("channels", "rms"):
        return spanned
    kept = {
        "batch": spanned,
        "layer": (0,),
        "group": (0, spanned[0]),
        "channel-wise": (0, spanned[0]),
    }[kind]
    return tuple(axis for axis in range(rank) if axis not in kept)


def _weights(mask, shape, spanned, rng):
    if mask == "none":
        return None
    covered = (0,) if mask == "leading" else [a for a in range(len(shape)) if a not in spanned]
    sizes = [size if axis in covered else 1 for axis, size in enumerate(shape)]
    if mask == "full":
        return np.ones(sizes, "float32")
    weights = (rng.uniform(size=sizes) < 0.7).astype("float32")
    weights[0] = 1
    if mask == "empty sets":
        weights[1:3] = 0
    return weights


class Expected(NamedTuple):
    """What the float64 oracle says, and the scales that errors of gradients are measured by."""

    y: np.ndarray
    gradients: list
    scales: list


def expected(case, given):
    """Returns the output and the gradients to x and to gamma and beta, where there are any."""
    x = given.x.astype("float64")
    gamma = 1.0 if given.gamma is None else given.gamma.astype("float64")
    beta = 0.0 if given.beta is None else given.beta.astype("float64")
    if case.kind == "rms":
        return _expected_of_rms(x, gamma, beta, given)
    y, *_ = oracle.normalize(x, given.axes, EPSILON, gamma, beta, given.weights)
    to_x, to_gamma, to_beta, scale = oracle.gradients(
        x, given.axes, given.upstream, EPSILON, gamma, given.weights
    )
    return Expected(y, *_listed(given, to_x, scale, to_gamma, to_beta))


def _expected_of_rms(x, gamma, beta, given):
    """y = gamma h + beta with h = x r and r = (mean square + epsilon)^(-1/2).

    As dr = -r^3 mean(x dx), the gradient to x is r (u - w h mean(u h)), with u = gamma * upstream
    and w the share of an element in the mean, times the number of elements.
    """
    axes = given.axes
    weights = np.broadcast_to(1.0 if given.weights is None else np.float64(given.weights), x.shape)
    count = weights.sum(axes, keepdims=True)
    share = weights / np.maximum(count, 1)
    square = (share * x * x).sum(axes, keepdims=True)
    r = np.where(count > 0, (square + EPSILON) ** -0.5, 0.0)
    h, u = x * r, given.upstream.astype("float64") * gamma
    to_x = r * (u - share * h * (u * h).sum(axes, keepdims=True))
    upstream = given.upstream.astype("float64")
    return Expected(h * gamma + beta, *_listed(given, to_x, r * u, upstream * h, upstream))


def _listed(given, to_x, scale, to_gamma, to_beta):
    """Returns lists of the gradients that are asked for, and of their scales."""
    found, scales = [to_x], [scale]
    for parameter, terms in ((given.gamma, to_gamma), (given.beta, to_beta)):
        if parameter is not None:
            found.append(oracle.sum_to(terms, parameter.shape))
            # Rounding of a sum is relative to what it adds up, which cancels in part.
            scales.append(oracle.sum_to(np.abs(terms), parameter.shape))
    return found, scales


CASES = _covering_cases(list(_main_cases()))
