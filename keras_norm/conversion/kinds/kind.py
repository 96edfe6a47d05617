"""One row of the table of kinds."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of normalization.

    Attributes:
        layer: Our class.
        keras: Keras's class; None if it has none.
        from_keras: Function of Keras's layer, and of whether the model makes masks, that returns
            our layer, not built.
        to_keras: Function of our layer, and of whether the model makes masks, that returns Keras's
            layer, not built.
        torch: Names in `torch.nn`, and functions of a module that return our layer.
        to_torch: Function of our built layer that returns a module without gamma and beta.
        flax: Names in `flax.nnx`, and functions of a module that return our layer.
        folding: Function of a layer, ours or Keras's, that returns its `Folding`.
        variants: Other classes derived from ours that are converted like it, or their import
            paths.
        matlab: Import path of the class that MATLAB's function returns; None if there is none.
    """

    layer: type
    keras: type | None
    from_keras: Callable | None
    to_keras: Callable
    torch: Mapping[str, Callable]
    to_torch: Callable
    flax: Mapping[str, Callable]
    folding: Callable
    variants: tuple[type | str, ...] = ()
    matlab: str | None = None

    @property
    def ours(self):
        """Our classes of this kind."""
        of_matlab = () if self.matlab is None else (self.matlab_class,)
        return (self.layer, *map(_imported, self.variants), *of_matlab)

    @property
    def matlab_class(self):
        """The class of the layers that MATLAB's function returns."""
        return _imported(self.matlab)

    def parent_of(self, layer):
        """Returns the class of this kind that a layer's class is or derives from."""
        known = (*self.ours, self.keras)
        return next(cls for cls in type(layer).__mro__ if cls in known)


def _imported(cls):
    if isinstance(cls, type):
        return cls
    module, _, name = cls.rpartition(".")
    return getattr(importlib.import_module(module), name)
