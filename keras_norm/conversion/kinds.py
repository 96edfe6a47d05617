"""The table of kinds of normalization: what each is in Keras, PyTorch, Flax and MATLAB.

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
        matlab: Name of the function in `keras_norm.matlab`; None if MATLAB has none.
        folding: Function of a layer, ours or Keras's, that returns its `Folding`.
        variants: Import paths of classes derived from ours that are translated like it.
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
        paths = (path.rpartition(".") for path in self.variants)
        return (self.layer, *(getattr(importlib.import_module(m), name) for m, _, name in paths))

    def parent_of(self, layer):
        """Returns the class of this kind that a layer's class is or derives from."""
        known = (*self.ours, self.keras)
        return next(cls for cls in type(layer).__mro__ if cls in known)


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
        matlab="batchNormalizationLayer",
        folding=affine.of_statistics,
        variants=(
            "keras_norm.wolfram.AppliedBatchNormalization",
            "keras_norm.matlab.layer_classes.BatchNormalizationLayer",
        ),
    ),
    Kind(
        layer=layers.LayerNormalization,
        keras=keras.layers.LayerNormalization,
        from_keras=keras_layers.layer_from_keras,
        to_keras=keras_layers.layer_to_keras,
        torch={"LayerNorm": torch_modules.from_layer_norm},
        to_torch=torch_modules.to_layer_norm,
        flax={"LayerNorm": flax_modules.from_layer_norm},
        matlab="layerNormalizationLayer",
        folding=affine.of_parameters,
        variants=(
            f"{unmasked.__name__}.UnmaskedLayerNormalization",
            "keras_norm.matlab.layer_classes.LayerNormalizationLayer",
        ),
    ),
    Kind(
        layer=layers.GroupNormalization,
        keras=keras.layers.GroupNormalization,
        from_keras=keras_layers.group_from_keras,
        to_keras=keras_layers.group_to_keras,
        torch={"GroupNorm": torch_modules.from_group_norm},
        to_torch=torch_modules.to_group_norm,
        flax={"GroupNorm": flax_modules.from_group_norm},
        matlab="groupNormalizationLayer",
        folding=affine.of_parameters,
        variants=(
            f"{unmasked.__name__}.UnmaskedGroupNormalization",
            "keras_norm.matlab.layer_classes.GroupNormalizationLayer",
        ),
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
        matlab="instanceNormalizationLayer",
        folding=affine.of_parameters,
        variants=("keras_norm.matlab.layer_classes.InstanceNormalizationLayer",),
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
    """Returns what the table has in a field, as messages list it: 'A, B or C'."""
    found = [name for kind in KINDS for name in getattr(kind, field)]
    return f"{', '.join(found[:-1])} or {found[-1]}"


def our_names():
    """Returns the names of our layers, as messages list them."""
    found = [kind.layer.__name__ for kind in KINDS]
    return f"{', '.join(found[:-1])} or {found[-1]}"
