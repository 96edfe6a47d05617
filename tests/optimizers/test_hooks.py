"""A hook that Keras removed, renamed or calls no more is an error, never a silent change."""

import inspect
import textwrap

import keras
import numpy as np
import pytest

from keras_norm import _keras
from keras_norm.optimizers import MultiplierOptimizer, hooks
from tests.optimizers import cases


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_the_installed_keras_calls_all_of_them(name):
    hooks.check(cases.OPTIMIZERS[name](0.1))


def renamed(kind, name, other):
    """Returns a class with every method that defines or calls `name` under another name."""
    bases = [base for base in kind.__mro__ if base is not object]
    members = {}
    for base in reversed(bases):
        for key, value in vars(base).items():
            if inspect.isfunction(value) and name in inspect.getsource(value):
                namespace = dict(inspect.unwrap(value).__globals__)
                lines = textwrap.dedent(inspect.getsource(value)).splitlines()
                while lines[0].startswith("@"):
                    del lines[0]
                source = "\n".join(lines).replace("super()", "super(kind, self)")
                exec(source.replace(name, other), namespace, namespace)
                members[key.replace(name, other)] = namespace[key.replace(name, other)]
    return type(kind.__name__, (kind,), members)


@pytest.mark.parametrize("name", ["_apply_weight_decay", "_update_model_variables_moving_average"])
def test_renamed_in_definition_and_calls(name):
    kind = renamed(keras.optimizers.SGD, name, name + "_now")
    with pytest.raises(
        RuntimeError, match=f"Keras {keras.__version__}.*`{name}`.*newer keras_norm"
    ):
        MultiplierOptimizer(kind(0.1)).build([keras.Variable(np.ones(2))])


def test_called_no_more(monkeypatch):
    kind = type(keras.optimizers.SGD())

    def apply_all(self, grads, trainable_variables):
        for g, v in zip(grads, trainable_variables, strict=True):
            v.assign(v - g)

    monkeypatch.setattr(kind, "_backend_apply_gradients", apply_all, raising=False)
    with pytest.raises(RuntimeError, match="`_apply_weight_decay`"):
        MultiplierOptimizer(keras.optimizers.SGD(0.1)).build([keras.Variable(np.ones(2))])


def test_removed():
    class Without(keras.optimizers.SGD):
        @property
        def _get_variable_index(self):
            raise AttributeError

    with pytest.raises(RuntimeError, match="`_get_variable_index`"):
        hooks.check(Without(0.1))


def test_optimizers_of_users_pass():
    class Own(keras.optimizers.Optimizer):
        def update_step(self, gradient, variable, learning_rate):
            variable.assign_sub(learning_rate * gradient)

        def apply(self, *args, **kwargs):
            return super().apply(*args, **kwargs)

    if keras.backend.backend() != "torch" or not hasattr(Own, "_parallel_update_step"):
        hooks.check(Own(0.1))


def test_every_purpose_is_said():
    assert all({**_keras.OPTIMIZER, **_keras.MODEL, **_keras.LAYER, **_keras.TENSOR}.values())
