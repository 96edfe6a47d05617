"""The order in which executors are asked, and the problems that none is offered."""

import keras
import numpy as np
import pytest

from keras_norm import ops
from keras_norm.ops import registry

X = np.float32([[1, 3], [5, 5]])


@pytest.fixture
def register(monkeypatch):
    """Registers executors for this test only."""
    monkeypatch.setattr(registry, "_executors", {})
    monkeypatch.setattr(registry, "_enabled", True)
    x = keras.ops.convert_to_tensor(X)
    device = ops.Problem.of(x, (1,), 1e-2, None, None).device

    def register(run, **options):
        options.setdefault("device", device)
        registry.register("normalize", keras.backend.backend(), run, **options)

    return register


def normalize(**options):
    return ops.normalize(keras.ops.convert_to_tensor(X), (1,), 1e-2, **options)


def is_plain(answer):
    return np.allclose(keras.ops.convert_to_numpy(answer[0])[1], 0)


def test_without_executors_the_plain_function_answers(register):
    assert is_plain(normalize())


def test_the_first_that_does_not_decline_answers(register):
    register(lambda problem, *tensors: None)
    register(lambda problem, *tensors: "second")
    register(lambda problem, *tensors: "third")
    assert normalize() == "second"


def test_all_may_decline(register):
    register(lambda problem, *tensors: None)
    assert is_plain(normalize())


def test_a_problem_says_what_is_asked(register):
    asked = []
    register(lambda problem, *tensors: asked.append(problem), options=["moments"])
    normalize(gamma=keras.ops.ones((1, 2)), with_moments=False)
    (problem,) = asked
    assert problem.shape == (2, 2)
    assert problem.axes == (1,)
    assert problem.gamma_axes == (1,)
    assert problem.beta_axes is None
    assert problem.dtype == "float32"
    assert problem.options == {"moments"}
    assert hash(problem) == hash(problem._replace())


@pytest.mark.parametrize(("name", "given"), [
    ("centered", {"centered": False}),
    ("exported", {"exported": True}),
    ("moments", {"with_moments": False}),
    ("mask", {"weights": np.ones((2, 1), "float32")}),
    ("replicas", {"combine": lambda moments: moments}),
])  # fmt: skip
def test_an_option_that_was_not_declared_is_declined(register, name, given):
    register(lambda problem, *tensors: "without")
    assert normalize(**given) != "without"
    register(lambda problem, *tensors: "with", options=[name])
    assert normalize(**given) == "with"
    assert normalize() == "without"


def test_another_device_or_backend_is_not_asked(register):
    register(lambda problem, *tensors: "elsewhere", device="another")
    registry.register("normalize", "another", lambda problem, *tensors: "elsewhere")
    assert is_plain(normalize())


@pytest.mark.parametrize("name", ["gamma", "beta", "weights"])
def test_what_does_not_broadcast_is_the_plain_functions(register, name):
    asked = []
    register(lambda problem, *tensors: asked.append(problem), options=["mask"])
    with pytest.raises(Exception, match=r"(?i)shape|size|broadcast|dimension"):
        normalize(**{name: keras.ops.ones((1, 3))})
    assert not asked
