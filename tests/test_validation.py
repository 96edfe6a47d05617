"""Messages stay short and name the value, whatever is given: checked through public functions."""

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm import _validation, matlab, wolfram
from keras_norm.conversion import register, replace_normalization, to_torch
from keras_norm.optimizers import MultiplierOptimizer

HUGE = -(10**5000)
LONG = {
    "integer": HUGE,
    "integers": [HUGE] * 5000,
    "list": [0] * 5000,
    "dictionary": {str(number): HUGE for number in range(5000)},
    "array": np.zeros(5000),
}


def optimizer(inner=None, **options):
    return MultiplierOptimizer(inner or keras.optimizers.AdamW(), **options)


def model():
    norm = keras_norm.BatchNormalization(name="norm")
    return keras.Sequential([keras.Input((2,)), norm])


TAKING = {
    "model": {
        "exclude_norms_and_biases": keras_norm.exclude_norms_and_biases,
        "layerwise_lr_decay": lambda x: keras_norm.layerwise_lr_decay(x, 0.5),
        "from_keras": keras_norm.from_keras,
        "fold": keras_norm.fold_normalization,
        "replace": lambda x: replace_normalization(x, keras_norm.conversion.batch_to_group),
        "population": lambda x: keras_norm.update_population_statistics(x, LONG["array"]),
        "merge": keras_norm.merge_moving_statistics,
        "diagnose": lambda x: keras_norm.diagnose(x, LONG["array"]),
    },
    "function": {"replace": lambda x: replace_normalization(model(), lambda layer: x)},
    "variable_or_layer": {"set_multipliers": lambda x: keras_norm.set_multipliers(x, lr=2)},
    "blocks": {"decay": lambda x: keras_norm.layerwise_lr_decay(model(), 0.5, blocks=x)},
    "inner_optimizer": {"optimizer": lambda x: MultiplierOptimizer(x)},
    "learning_rate": {"optimizer": lambda x: optimizer(learning_rate=x)},
    "foo": {"optimizer": lambda x: optimizer(foo=x)},
    "every": {"callback": lambda x: keras_norm.callbacks.PopulationStatistics([0.0], every=x)},
    "cls": {"register": lambda x: register(x, print)},
    "translate": {"register": lambda x: register(Unprintable, x)},
    "layer": {
        "to_torch": to_torch,
        "factor": lambda x: matlab.setL2Factor(x, "Scale", 2),
        "sheet": matlab.property_sheet,
        "Wolfram": lambda x: wolfram.NetExtract(x, "Gamma"),
    },
    "no layer": {"factor": lambda x: matlab.setL2Factor(model(), x, "Scale", 2)},
    "no parameter": {"factor": lambda x: matlab.setL2Factor(model(), "norm", x, 2)},
    "positions": {"Wolfram": lambda x: wolfram.NetExtract(model(), [x, "Gamma"])},
    "Epsilon": {
        "give": lambda x: matlab.batchNormalizationLayer(Epsilon=x),
        "set": lambda x: setattr(matlab.batchNormalizationLayer(), "Epsilon", x),
    },
}
CASES = [(name, key, call) for name, calls in TAKING.items() for key, call in calls.items()]


@pytest.mark.parametrize(("name", "call"), [pytest.param(n, c, id=f"{n}-{k}") for n, k, c in CASES])
@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_long_values_are_shown_short(name, call, value):
    with pytest.raises((TypeError, ValueError), match=name) as got:
        call(value)
    assert len(str(got.value)) < 700


@pytest.mark.parametrize("name", ["lr_multipliers", "weight_decay_multipliers"])
def test_long_multipliers_are_shown_short(name):
    for value in (HUGE, LONG["list"], {"kernel": HUGE}):
        with pytest.raises((TypeError, ValueError), match=name) as got:
            optimizer(**{name: value})
        assert len(str(got.value)) < 400
    with pytest.raises((TypeError, ValueError), match=name) as got:
        optimizer(keras.optimizers.SGD(), **{name: LONG["list"]})
    assert len(str(got.value)) < 400


class Unprintable:
    def __repr__(self):
        raise RuntimeError


def test_values_as_they_are_shown():
    array = np.arange(9.0).reshape(3, 3)
    expected = "an array of shape (3, 3), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, ...]"
    assert _validation.shown(0.25) == "0.25"
    assert _validation.shown([1, "a"]) == "[1, 'a']"
    assert _validation.shown(list(range(9))) == "[0, 1, 2, 3, 4, 5, 6, 7, ...]"
    assert _validation.shown(array) == expected
    assert _validation.shown(10**5000) == "an integer of 5001 digits"
    assert _validation.shown((HUGE,)) == "(an integer of 5001 digits,)"
    assert _validation.shown("a" * 200) == f"'{'a' * 57}...{'a' * 58}'"


def test_a_value_that_cannot_be_printed():
    assert _validation.shown(Unprintable()).startswith("<Unprintable instance")
