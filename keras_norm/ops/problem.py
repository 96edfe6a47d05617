"""The description of a normalization, as a small hashable object: the key of plans and caches."""

from typing import NamedTuple

import keras


class Problem(NamedTuple):
    """Everything about a normalization except the values in its tensors.

    The fields with a default are options. `registry.answer` offers a problem only to executors that
    have declared all its options, so a new option needs no change in the executors.

    Attributes:
        shape: Sizes of the input; None where a size is unknown while a graph is traced.
        axes: Axes that a set extends over, counted from the front.
        gamma_axes: Axes that gamma spans, or None without gamma.
        beta_axes: Axes that beta spans, or None without beta.
        epsilon: Number that is added to the variance.
        dtype: Name of the input's dtype.
        device: Kind of device that holds the input ("cpu", "cuda"), where the backend knows it
            at the call (eager PyTorch); else None.
        centered: Whether the mean is subtracted; if not, the variance is the mean square.
        mask: None, or the mask's sizes: of the rank of the input, 1 where it is broadcast.
        replicas: Whether the moments are combined with those of other replicas.
        renorm: Whether the output is corrected (batch renormalization).
        exported: Whether the graph may be exported: it then has plain operations only, no
            branches, and sums over axes of unknown size in one stage.
        moments: Whether the moments are returned.
        mismatched: Whether gamma, beta or the mask do not broadcast against the input. No executor
            declares this option, so that the plain function raises the error.
    """

    shape: tuple
    axes: tuple
    gamma_axes: tuple | None
    beta_axes: tuple | None
    epsilon: float
    dtype: str
    device: str | None
    centered: bool = True
    mask: tuple | None = None
    replicas: bool = False
    renorm: bool = False
    exported: bool = False
    moments: bool = True
    mismatched: bool = False

    @classmethod
    def of(cls, x, axes, epsilon, gamma, beta, weights=None, **options):
        """Returns the problem of normalizing `x`; the arguments are those of `normalize`."""
        shape = _sizes(x)
        return cls(
            shape,
            tuple(axes),
            _spanned_axes(gamma),
            _spanned_axes(beta),
            epsilon,
            keras.backend.standardize_dtype(x.dtype),
            _device(x),
            mask=None if weights is None else _sizes(weights),
            mismatched=not all(_broadcasts(v, shape) for v in (gamma, beta, weights)),
            **options,
        )

    @property
    def options(self):
        """The names of the options that differ from their defaults."""
        return frozenset(
            name for name, default in self._field_defaults.items() if getattr(self, name) != default
        )


def _sizes(x):
    # An unknown size is None on TensorFlow, and a symbolic number on JAX and PyTorch.
    return tuple([size if isinstance(size, int) else None for size in x.shape])


def _broadcasts(values, shape):
    """Returns whether an array of the rank of `shape` broadcasts to it, as far as is known."""
    if values is None:
        return True
    if len(values.shape) != len(shape):
        return False
    pairs = zip(_sizes(values), shape, strict=True)
    return all(a == 1 or a == b or a is None or b is None for a, b in pairs)


def _spanned_axes(parameter):
    if parameter is None:
        return None
    return tuple([axis for axis, size in enumerate(parameter.shape) if size != 1])


if keras.backend.backend() == "torch":

    def _device(x):
        return getattr(x.device, "type", None)
else:

    def _device(x):
        return None
