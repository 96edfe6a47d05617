"""A hook that Keras removed, renamed or no longer calls is an error, never a silent change."""

import inspect
import textwrap

import keras
import numpy as np
import pytest

from keras_norm import _keras
from keras_norm.optimizers import MultiplierOptimizer, hooks, rehearsal
from tests.optimizers import cases


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_the_installed_keras_calls_all_of_them(name):
    hooks.check(cases.OPTIMIZERS[name](0.1))


def rewritten(function, kind, old, new):
    """Returns a method with other words in its source."""
    source = textwrap.dedent(inspect.getsource(function))
    source = source[source.index("def ") :].replace("super()", "super(kind, self)")
    assert old in source
    namespace = dict(inspect.unwrap(function).__globals__) | {"kind": kind}
    exec(source.replace(old, new), namespace, namespace)
    made = namespace[function.__name__.replace(old, new)]
    if keras.backend.backend() == "torch":  # as the decorators of some
        import torch

        made = torch.no_grad()(made)
    return made


def renamed(kind, name, other):
    """Returns a class with every method that defines or calls `name` under another name."""
    members = {}
    for base in reversed(kind.__mro__[:-1]):
        for key, value in vars(base).items():
            function = value.fget if isinstance(value, property) else value
            if inspect.isfunction(function) and name in inspect.getsource(function):
                made = rewritten(function, base, name, other)
                if isinstance(value, property):
                    made = property(made, value.fset)
                members[key.replace(name, other)] = made
    return type(kind.__name__, (kind,), members)


def kinds_with(name):
    """Classes whose steps go through a hook: with one update a variable and, on PyTorch, fused."""
    kinds = [type(make()) for make in (keras.optimizers.SGD, keras.optimizers.Ftrl)]
    return [kind for kind in kinds if hasattr(kind, name)]


HOOKS = [name for name in _keras.HOOKS | _keras.PARALLEL_HOOK if kinds_with(name)]


@pytest.mark.parametrize("name", HOOKS)
def test_renamed_in_definition_and_calls(name):
    """The old definitions are still there, and nothing calls them."""
    caught = 0
    for kind in kinds_with(name):
        other = renamed(kind, name, name + "_now")
        # PyTorch calls one of the two, by class.
        if name in hooks._reached(kind, "apply"):
            caught += 1
            with pytest.raises(RuntimeError, match=f"Keras {keras.__version__}.*newer keras_norm"):
                MultiplierOptimizer(other(0.1)).build([keras.Variable(np.ones(2))])
    assert caught


@pytest.mark.parametrize("name", HOOKS)
def test_removed_or_renamed_without_a_trace(name, monkeypatch):
    """No class has the name any more."""
    for kind in kinds_with(name):
        if name in hooks._reached(kind, "apply"):
            other = renamed(kind, name, name + "_now")
            with monkeypatch.context() as patch:
                for base in kind.__mro__:
                    if name in vars(base):
                        patch.delattr(base, name)
                with pytest.raises(RuntimeError, match=f"Keras {keras.__version__}.*newer keras_n"):
                    hooks.check(other(0.1))


@pytest.mark.parametrize(
    ("method", "call", "instead"),
    {
        "torch": [
            ("_apply_weight_decay", "self._get_current_learning_rate()", "self._learning_rate"),
            ("_parallel_update_step", "learning_rate)", "float(self._learning_rate))"),
        ],
        "jax": [
            ("_apply_weight_decay", "self.learning_rate", "self._learning_rate"),
            ("update_step", "cast(learning_rate", "cast(self._learning_rate"),
        ],
        "tensorflow": [
            ("_apply_weight_decay", "self.learning_rate", "self._learning_rate"),
            ("update_step", "cast(learning_rate", "cast(self._learning_rate"),
        ],
    }[keras.backend.backend()],
)
def test_one_place_that_calls_a_hook_no_more(method, call, instead):
    """The names are all there, so that only the rehearsal can tell."""
    kind = type(keras.optimizers.SGD())
    base = next(base for base in kind.__mro__ if method in vars(base))
    other = type("SGD", (kind,), {method: rewritten(vars(base)[method], base, call, instead)})
    optimizer = other(0.1, weight_decay=0.1)
    hooks.check(optimizer)
    with pytest.raises(RuntimeError, match="a step of `SGD` with a learning-rate multiplier, L2"):
        MultiplierOptimizer(optimizer).build([keras.Variable(np.ones(2))])


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_the_rehearsal_passes_and_would_see_each_setting(name, monkeypatch):
    settings = {} if name == "Ftrl" else {"weight_decay": 0.1}
    monkeypatch.setattr(rehearsal, "_passed", set())
    rehearsal.check(cases.OPTIMIZERS[name](0.3, **settings))
    wrong = {"L2": 0.0, "LR_MULTIPLIER": 1.0, "DECAY_MULTIPLIER": 1.0}
    if name in ("Ftrl", "ScheduleFreeAdamW"):  # they decay no weights
        del wrong["DECAY_MULTIPLIER"]
    plain = rehearsal._plain
    for setting, value in wrong.items():

        def without(kind, config, setting=setting, value=value):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(rehearsal, setting, value)
                return plain(kind, config)

        monkeypatch.setattr(rehearsal, "_passed", set())
        monkeypatch.setattr(rehearsal, "_plain", without)
        with pytest.raises(RuntimeError, match="is not that of"):
            rehearsal.check(cases.OPTIMIZERS[name](0.3, **settings))


def test_the_rehearsal_lets_pass_what_it_cannot_judge():
    class Noisy(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            variable.assign(variable + keras.random.normal(variable.shape))

        def _parallel_update_step(self, grads, variables, learning_rate):
            for variable in variables:
                self.update_step(None, variable, learning_rate)

    class Demanding(keras.optimizers.SGD):
        def __init__(self, learning_rate, *, demanded, **kwargs):
            super().__init__(learning_rate, **kwargs)

    rehearsal.check(Noisy(0.1))
    rehearsal.check(Demanding(0.1, demanded=True))


def test_the_rehearsal_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(rehearsal, "_passed", set())
    keras.utils.set_random_seed(3)
    names = [keras.Variable(1.0).name, keras.optimizers.SGD().name]
    expected = cases.values([keras.random.normal((2,)), keras.random.uniform((2,))])
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    variable = keras.Variable(1.0)
    optimizer = keras.optimizers.SGD()
    assert [variable.name, optimizer.name] == names
    rehearsal.check(optimizer)
    cases.assert_same(
        cases.values([keras.random.normal((2,)), keras.random.uniform((2,))]), expected
    )
    first, second = keras.Variable(1.0).name, keras.Variable(1.0).name
    assert (first, second) == (f"{names[0]}_1", f"{names[0]}_2")


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
