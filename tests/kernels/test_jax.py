"""What only JAX has: its transformations, and memory."""

import os
import subprocess
import sys

import keras
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("tests of the JAX kernel", allow_module_level=True)

import jax
import jax.numpy as jnp
import numpy as np

from keras_norm import ops
from tests import plain
from tests.kernels import test_kernels

X = jax.random.normal(jax.random.key(0), (5, 3, 4))


def loss(x, normalize=ops.normalize):
    return (normalize(x, (0, 1), 1e-2)[0] * jnp.arange(4.0) ** 2).sum() ** 2 + (
        normalize(x, (1, 2), 1e-2)[0] ** 3
    ).sum()


def plain_loss(x):
    return loss(x, plain.normalize)


@pytest.mark.parametrize("transform", [
    lambda f: lambda x: jax.jvp(f, (x,), (jnp.cos(x),))[1],
    lambda f: jax.jit(jax.jacfwd(f)),
    lambda f: jax.jacrev(jax.jacrev(f)),
    lambda f: lambda x: jax.vmap(f)(jnp.stack([x, x + 1])),
    lambda f: lambda x: jax.vmap(jax.grad(f))(jnp.stack([x, x + 1])),
    lambda f: jax.grad(jax.checkpoint(f)),
    lambda f: lambda x: jax.linearize(f, x)[1](jnp.cos(x)),
])  # fmt: skip
@pytest.mark.parametrize("mean", [0.0, 10.0], ids=["near zero", "far from zero"])
def test_transforms(transform, mean):
    x = X + mean
    np.testing.assert_allclose(transform(loss)(x), transform(plain_loss)(x), rtol=1e-3, atol=2e-3)


def test_a_problem_is_compiled_once():
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event)
    )
    compilation = "/jax/core/compile/backend_compile_duration"
    try:
        for function in (lambda x: ops.normalize(x, (0, 1), 1e-2)[0], jax.grad(loss)):
            function(X)
            events.clear()
            function(X)
            assert compilation not in events
        # What is compiled is heard: a function that nothing else can have compiled.
        jax.jit(lambda x: x + 1)(X)
        assert compilation in events
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_input_and_the_moments_are_kept(dtype):
    x = jax.random.normal(jax.random.key(0), (8, 100, 512), dtype)
    for axes in ((0, 1), (1, 2), (2,)):
        gamma, beta = jnp.ones((1, 1, 512)), jnp.zeros((1, 1, 512))
        _, vjp = jax.vjp(
            lambda *a, axes=axes: ops.normalize(a[0], axes, 1e-2, *a[1:])[0], x, gamma, beta
        )
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(vjp)) <= 1.1 * x.nbytes


def test_float64():
    code = (
        "import keras, keras_norm\n"
        "import numpy as np\n"
        "x = np.random.default_rng(0).standard_normal((2, 5, 4)) + 1\n"
        "for axes in ((0, 1), (1, 2), (2,)):\n"
        "    y = keras_norm.ops.normalize(keras.ops.convert_to_tensor(x), axes, 1e-2)[0]\n"
        "    deviation = np.sqrt(x.var(axes, keepdims=True) + 1e-2)\n"
        "    expected = (x - x.mean(axes, keepdims=True)) / deviation\n"
        "    np.testing.assert_allclose(y, expected, atol=1e-14)\n"
    )
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_sharded_arrays():
    devices = jax.devices()
    assert len(devices) == 2
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    x = jax.random.normal(jax.random.key(0), (6, 20, 4))
    sharded = jax.device_put(
        x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    )
    gradient = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(gradient(sharded), gradient(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [100_000, 1_000_003])
@pytest.mark.parametrize("mean", [0.0, 1e5])
def test_long_axes_keep_the_promised_accuracy(rows, mean):
    test_kernels.assert_promised_accuracy((rows, 3), (0,), (1,), mean)


def test_what_cannot_be_planned_is_declined():
    # A length that is prime, and too long for one sum.
    assert test_kernels.answer(jnp.ones((1_000_003, 2)), (0,)) is None
    # No order of axes that is a form: a position between channels of one set.
    x, gamma = jnp.ones((2, 3, 4, 5)), jnp.ones((1, 3, 1, 5))
    assert test_kernels.answer(x, (1, 2), gamma) is None
