"""The table of kinds of normalization, with their equivalents in Keras, PyTorch, Flax and MATLAB.

Conversion, folding, sheets and tests read it. To add a kind, write its layer, and add a row.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping

import keras

from keras_norm import layers
from keras_norm.conversion import (
    affine,
    flax_modules,
    keras_layers,
    torch_modules,
    unmasked,
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of normalization.

    Attributes:
        layer: Our class.
        keras: Keras's class; None if it has none.
        from_keras: Function of Keras's layer and of whether masks reach it that returns ours.
        to_keras: Function of our layer and of whether masks reach it that returns Keras's.
        torch: Names in `torch.nn`, and functions of a module that return our layer.
        to_torch: Function of our built layer that returns a module without gamma and beta.
        flax: Names in `flax.nnx`, and functions of a module that return our layer.
        matlab: Import path of the class that MATLAB's function returns; None if there is none.
        folding: Function of a layer, ours or Keras's, that returns its `Folding`.
        variants: Import paths of other classes derived from ours that are translated like it.
    """

    layer: type
    keras: type | None
    from_keras: Callable | None
    to_keras: Callable
    torch: Mapping[str, Callable]
    to_torch: Callable
    flax: Mapping[str, Callable]
    matlab: str | None
    folding: Callable
    variants: tuple[str, ...] = ()

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


def _imported(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


KINDS = (
    Kind(
        layer=layers.BatchNormalization,
        keras=keras.layers.BatchNormalization,
        from_keras=keras_layers.batch_from_keras,
        to_keras=keras_layers.batch_to_keras,
        torch={
            "BatchNorm1d": torch_modules.from_batch_norm,
            "BatchNorm2d": torch_modules.from_batch_norm,
            "BatchNorm3d": torch_modules.from_batch_norm,
            "SyncBatchNorm": torch_modules.from_sync_batch_norm,
        },
        to_torch=torch_modules.to_batch_norm,
        flax={"BatchNorm": flax_modules.from_batch_norm},
        matlab="keras_norm.matlab.layer_classes.BatchNormalizationLayer",
        folding=affine.of_statistics,
        variants=("keras_norm.wolfram.AppliedBatchNormalization",),
    ),
    Kind(
        layer=layers.LayerNormalization,
        keras=keras.layers.LayerNormalization,
        from_keras=keras_layers.layer_from_keras,
        to_keras=keras_layers.layer_to_keras,
        torch={"LayerNorm": torch_modules.from_layer_norm},
        to_torch=torch_modules.to_layer_norm,
        flax={"LayerNorm": flax_modules.from_layer_norm},
        matlab="keras_norm.matlab.layer_classes.LayerNormalizationLayer",
        folding=affine.of_parameters,
        variants=(f"{unmasked.__name__}.UnmaskedLayerNormalization",),
    ),
    Kind(
        layer=layers.GroupNormalization,
        keras=keras.layers.GroupNormalization,
        from_keras=keras_layers.group_from_keras,
        to_keras=keras_layers.group_to_keras,
        torch={"GroupNorm": torch_modules.from_group_norm},
        to_torch=torch_modules.to_group_norm,
        flax={"GroupNorm": flax_modules.from_group_norm},
        matlab="keras_norm.matlab.layer_classes.GroupNormalizationLayer",
        folding=affine.of_parameters,
        variants=(f"{unmasked.__name__}.UnmaskedGroupNormalization",),
    ),
    Kind(
        layer=layers.InstanceNormalization,
        keras=None,
        from_keras=None,
        to_keras=keras_layers.group_to_keras,
        torch={
            "InstanceNorm1d": torch_modules.from_instance_norm,
            "InstanceNorm2d": torch_modules.from_instance_norm,
            "InstanceNorm3d": torch_modules.from_instance_norm,
        },
        to_torch=torch_modules.to_group_norm,
        flax={"InstanceNorm": flax_modules.from_instance_norm},
        matlab="keras_norm.matlab.layer_classes.InstanceNormalizationLayer",
        folding=affine.of_parameters,
    ),
    Kind(
        layer=layers.RMSNormalization,
        keras=keras.layers.RMSNormalization,
        from_keras=keras_layers.rms_from_keras,
        to_keras=keras_layers.rms_to_keras,
        torch={"RMSNorm": torch_modules.from_rms_norm},
        to_torch=torch_modules.to_rms_norm,
        flax={"RMSNorm": flax_modules.from_rms_norm},
        matlab=None,
        folding=affine.of_parameters,
        variants=(f"{unmasked.__name__}.UnmaskedRMSNormalization",),
    ),
)


def kind_of(layer):
    """Returns the kind that a layer's class is or derives from, in Keras or here; or None."""
    known = {cls: kind for kind in KINDS for cls in (kind.layer, kind.keras) if cls is not None}
    return next((known[cls] for cls in type(layer).__mro__ if cls in known), None)


def names(field):
    """Returns the names in a field of the table for a message: 'A, B or C'."""
    return _listed([name for kind in KINDS for name in getattr(kind, field)])


def our_names(kinds=KINDS):
    """Returns the names of our layers for a message: 'A, B or C'."""
    return _listed([kind.layer.__name__ for kind in kinds])


def _listed(names):
    return f"{', '.join(names[:-1])} or {names[-1]}"
