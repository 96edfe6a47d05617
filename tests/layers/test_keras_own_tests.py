"""Keras's own tests of its layers, run on keras_norm's layers with Keras's defaults.

Left out: the deprecated `rms_scaling`.
"""

import functools
import types

import keras
import pytest
from keras.src.layers.normalization import (
    batch_normalization_test,
    group_normalization_test,
    layer_normalization_test,
    rms_normalization_test,
)

import keras_norm

# Keras's tests meet Keras's warnings, which differ between versions.
pytestmark = pytest.mark.filterwarnings("ignore")


def _with_keras_layers_replaced(module, name, layer):
    """Replaces the test module's `layers` by those of keras_norm."""
    module.layers = types.SimpleNamespace(**{**vars(keras.layers), name: layer})


@keras.saving.register_keras_serializable("keras_norm_tests", "BatchNormalization")
class BatchNormalization(keras_norm.BatchNormalization):
    def __init__(self, axis=-1, momentum=0.99, epsilon=1e-3, **kwargs):
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)


@keras.saving.register_keras_serializable("keras_norm_tests", "LayerNormalization")
class LayerNormalization(keras_norm.LayerNormalization):
    def __init__(self, axis=-1, epsilon=1e-3, reduction_axes=None, **kwargs):
        reduction_axes = axis if reduction_axes is None else reduction_axes
        super().__init__(axis=axis, epsilon=epsilon, reduction_axes=reduction_axes, **kwargs)


@keras.saving.register_keras_serializable("keras_norm_tests", "GroupNormalization")
class GroupNormalization(keras_norm.GroupNormalization):
    def __init__(self, groups=32, axis=-1, epsilon=1e-3, **kwargs):
        super().__init__(groups=groups, axis=axis, epsilon=epsilon, **kwargs)


_with_keras_layers_replaced(batch_normalization_test, "BatchNormalization", BatchNormalization)
_with_keras_layers_replaced(layer_normalization_test, "LayerNormalization", LayerNormalization)
_with_keras_layers_replaced(group_normalization_test, "GroupNormalization", GroupNormalization)
_with_keras_layers_replaced(rms_normalization_test, "RMSNormalization", keras_norm.RMSNormalization)


class TestBatchNormalization(batch_normalization_test.BatchNormalizationTest):
    def test_renorm_invalid_clipping_keys(self):
        """The cases are Keras's; the messages say what was received."""
        for clipping, message in (
            ({"random_key": 1.0}, "Received invalid keys.*random_key"),
            ({"rmax": 0.0, "rmin": 1.0}, "rmax should be.*'rmin': 1.0"),
            ({"rmax": 1.0, "dmax": -1.0}, r"renorm_clipping\['dmax'\].*>= 0.*-1.0"),
        ):
            with pytest.raises(ValueError, match=message):
                BatchNormalization(renorm=True, renorm_clipping=clipping)


class TestLayerNormalization(layer_normalization_test.LayerNormalizationTest):
    @pytest.fixture(autouse=True)
    def _no_rms_scaling(self, request):
        if "rms" in request.node.name:
            pytest.skip("rms_scaling is deprecated in Keras and not supported")

    @functools.wraps(layer_normalization_test.LayerNormalizationTest.run_layer_test)
    def run_layer_test(self, layer_cls, init_kwargs, *args, **kwargs):
        if "rms_scaling" not in init_kwargs:
            super().run_layer_test(layer_cls, init_kwargs, *args, **kwargs)


class TestGroupNormalization(group_normalization_test.GroupNormalizationTest):
    def test_groups_not_a_multiple_of_dim_error(self):
        """Keras's message has it the wrong way round: groups divide the channels."""
        with pytest.raises(ValueError, match="must divide the number of channels"):
            GroupNormalization(groups=3).build((2, 4))


class TestRMSNormalization(rms_normalization_test.RMSNormalizationTest):
    pass
