"""The table of kinds."""

import keras
import pytest

import keras_norm
from keras_norm.conversion.kinds import KINDS, kind_of
from keras_norm.layers.normalization import Normalization


def test_every_layer_has_a_row():
    public = {getattr(keras_norm, name) for name in keras_norm.__all__}
    ours = {x for x in public if isinstance(x, type) and issubclass(x, Normalization)}
    assert {kind.layer for kind in KINDS} == ours


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.layer.__name__)
def test_rows_are_complete(kind):
    assert all(issubclass(cls, kind.layer) for cls in kind.ours)
    assert (kind.keras is None) == (kind.from_keras is None)
    for cls in filter(None, (*kind.ours, kind.keras)):
        layer = cls()
        assert kind_of(layer) is kind
        assert kind.parent_of(layer) is cls


def test_matlab_s_functions_are_those_of_the_table():
    functions = {name for name in keras_norm.matlab.__all__ if name.endswith("NormalizationLayer")}
    classes = [kind.matlab_class for kind in KINDS if kind.matlab]
    assert {cls.__name__[0].lower() + cls.__name__[1:] for cls in classes} == functions


def test_what_is_no_normalization_has_no_kind():
    assert kind_of(keras.layers.Dense(2)) is None
    assert kind_of(3) is None
