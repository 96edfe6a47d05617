"""Features of JAX: its transformations, and memory."""

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

import keras_norm
from keras_norm import ops
from keras_norm.ops import registry
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


@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2,)])
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_third_derivatives_are_the_plain_ones(axes, mean):
    def third(normalize):
        def norm(gradient):
            return lambda x: (gradient(x) ** 2).sum()

        first = jax.grad(lambda x: (normalize(x, axes, 1e-2)[0] ** 3).sum())
        return jax.jit(jax.grad(norm(jax.grad(norm(first)))))(X + mean)

    expected = third(plain.normalize)
    np.testing.assert_allclose(
        third(ops.normalize), expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )


def test_a_problem_is_compiled_once():
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event)
    )
    compilation = "/jax/core/compile/backend_compile_duration"
    try:
        stored = ops.Moments(jnp.ones(()), jnp.ones((1, 1, 4)), None, jnp.ones((1, 1, 4)))
        frozen = jax.grad(lambda x: ops.standardize(x, stored, 1e-2).sum())
        for function in (lambda x: ops.normalize(x, (0, 1), 1e-2)[0], jax.grad(loss), frozen):
            function(X)
            events.clear()
            function(X)
            assert compilation not in events
        # The compilations of a function that nothing else compiles are counted.
        jax.jit(lambda x: x + 1)(X)
        assert compilation in events
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_input_and_the_moments_are_kept(dtype):
    x = jax.random.normal(jax.random.key(0), (8, 200, 512), dtype)
    for axes in ((0, 1), (1, 2), (2,)):
        gamma, beta = jnp.ones((1, 1, 512)), jnp.zeros((1, 1, 512))
        _, vjp = jax.vjp(
            lambda *a, axes=axes: ops.normalize(a[0], axes, 1e-2, *a[1:])[0], x, gamma, beta
        )
        kept = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(vjp)}
        assert sum(kept.values()) <= 1.1 * x.nbytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("combine", [None, lambda local: local], ids=["alone", "replicas"])
def test_with_a_mask_little_more_is_kept(dtype, combine):
    x = jax.random.normal(jax.random.key(0), (8, 100, 512), dtype)
    gamma, beta, weights = jnp.ones((1, 1, 512)), jnp.zeros((1, 1, 512)), jnp.ones((8, 100, 1))

    def call(x, gamma, beta):
        return ops.normalize(x, (0, 1), 1e-2, gamma, beta, weights.at[0].set(0), combine)[0]

    _, vjp = jax.vjp(call, x, gamma, beta)
    kept = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(vjp)}
    assert sum(kept.values()) <= 1.1 * x.nbytes + weights.nbytes


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
    # No order of axes that is a form: a position between channels of one set.
    x, gamma = jnp.ones((2, 3, 4, 5)), jnp.ones((1, 3, 1, 5))
    assert test_kernels.answer(x, (1, 2), gamma) is None


def test_frozen_statistics_have_an_executor():
    x = X + 3
    moments = ops.Moments(jnp.ones(()), jnp.full((1, 1, 4), 2.0), None, jnp.full((1, 1, 4), 3.0))
    gamma, beta = jnp.arange(1.0, 5).reshape(1, 1, 4), jnp.ones((1, 1, 4))
    asked = ops.Problem.of(x, (0, 1), 1e-2, gamma, beta)
    assert registry.answer("standardize", asked, x, moments, gamma, beta) is not None

    def call(function):
        def values(x, gamma, shift, variance):
            stored = moments._replace(shift=shift, variance=variance)
            return (function(x, stored, 1e-2, gamma, beta) ** 3).sum()

        gradient = jax.grad(values, (0, 1, 2, 3))
        arguments = x, gamma, moments.shift, moments.variance
        return gradient(*arguments), jax.jvp(gradient, arguments, arguments)[1]

    for a, e in zip(
        jax.tree.leaves(call(ops.standardize)),
        jax.tree.leaves(call(plain.standardize)),
        strict=True,
    ):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-4)


def test_no_tracer_leaks():
    weights = jnp.ones((5, 3, 1)).at[0, 1].set(0)

    def masked(x):
        return ops.normalize(x, (0, 1), 1e-2, None, None, weights)[0].sum() + loss(x)

    with jax.checking_leaks():
        jax.jit(jax.grad(masked))(X)
        jax.jit(jax.vmap(jax.grad(masked)))(jnp.stack([X, X + 1]))


@pytest.mark.parametrize("padding", [jnp.nan, jnp.inf])
def test_padding_never_spoils_a_second_gradient(padding):
    weights = jnp.ones((5, 3, 1)).at[0, 1].set(0)

    def second(normalize):
        def loss(x):
            return ((normalize(x, (0, 1), 1e-2, None, None, weights)[0] * weights) ** 3).sum()

        return jax.jit(jax.vmap(jax.grad(lambda x: (jax.grad(loss)(x) ** 2).sum())))

    x = jnp.where(weights > 0, jnp.stack([X, X + 1]), padding)
    expected = second(plain.normalize)(x)
    np.testing.assert_allclose(
        second(ops.normalize)(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_recomputation():
    inner = keras.Sequential([keras_norm.GroupNormalization(2), keras_norm.LayerNormalization()])
    inner.build((None, 3, 4))
    values = [v.value for v in inner.trainable_variables]

    def call(values, x):
        return (inner.stateless_call(values, [], x)[0] ** 3).sum()

    expected = jax.grad(call, (0, 1))(values, X)
    for recomputed in (keras.remat(call), jax.checkpoint(call)):
        found = jax.jit(jax.grad(recomputed, (0, 1)))(values, X)
        for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)


def test_sizes_that_are_open_are_declined():
    from jax import export

    def call(x):
        asked = ops.Problem.of(x, (0, 1), 1e-2, None, None)
        assert registry.answer("normalize", asked, x, None, None, None, None) is None
        stored = ops.Moments(jnp.ones(()), jnp.ones((1, 1, 4)), None, jnp.ones((1, 1, 4)))
        return ops.standardize(ops.normalize(x, (2,), 1e-2, exported=True)[0], stored, 1e-2)

    batch = export.symbolic_shape("b, 3, 4")
    exported = export.export(jax.jit(call))(jax.ShapeDtypeStruct(batch, "float32"))
    known = ops.normalize(X, (2,), 1e-2)[0]
    np.testing.assert_allclose(exported.call(X), (known - 1) / np.sqrt(1.01), atol=1e-5)


@pytest.mark.parametrize("sizes", ["b, 3, 4", "b, t, 4"])
def test_training_with_symbolic_sizes(sizes):
    from jax import export

    layers = keras_norm.BatchNormalization(), keras_norm.LayerNormalization()
    for layer in layers:
        layer.build((None, None, 4))

    def call(x):
        for layer in layers:
            values = [v.value for v in layer.variables[:2]], [v.value for v in layer.variables[2:]]
            x, _ = layer.stateless_call(*values, x, training=True)
        return x

    shape = export.symbolic_shape(sizes)
    exported = export.export(jax.jit(call))(jax.ShapeDtypeStruct(shape, "float32"))
    np.testing.assert_allclose(exported.call(X), call(X), atol=1e-5)


@pytest.mark.parametrize("synchronized", [True, False])
def test_replicas_are_joined_when_asked(synchronized):
    layer = keras_norm.BatchNormalization(synchronized=synchronized)
    layer.build((None, 3, 4))
    values = [[v.value for v in group] for group in
              (layer.trainable_variables, layer.non_trainable_variables)]  # fmt: skip

    def call(x):
        return layer.stateless_call(*values, x, training=True)[0]

    def gradient(x):
        return jax.vjp(call, x)[1](jnp.cos(x))[0]

    x = jnp.stack([X, 2 * X + 50])
    program = str(jax.make_jaxpr(lambda x: jax.pmap(call, "replica")(x))(x))
    assert ("psum" in program) == synchronized
    for function in (call, gradient):
        found = jax.pmap(function, "replica")(x)
        whole = jnp.concatenate(x)
        expected = function(whole).reshape(x.shape) if synchronized else [*map(function, x)]
        np.testing.assert_allclose(found, jnp.asarray(expected), atol=1e-5)


@pytest.mark.parametrize(("rows", "masked"), [(3000, False), (3000, True), (150_000, False)])
def test_mean_squares_keep_the_promised_accuracy(rows, masked):
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((rows, 16)).astype("float32") + shift for shift in (30, 1))
    gamma = rng.uniform(0.5, 1.5, (1, 16)).astype("float32")
    weights = jnp.ones((rows, 1)).at[::3].set(0) if masked else None
    y, vjp = jax.vjp(
        lambda x, gamma: ops.normalize(x, (1,), 1e-6, gamma, None, weights, centered=False)[0],
        x, gamma)  # fmt: skip
    dx, dgamma = vjp(jnp.asarray(g))
    x, g, gamma = (v.astype("float64") for v in (x, g, gamma))
    inverse = ((x * x).mean(1, keepdims=True) + 1e-6) ** -0.5
    if masked:
        inverse[::3] = 0
    h, u = x * inverse, g * gamma
    expected_dx = inverse * (u - h * (u * h).mean(1, keepdims=True))
    for actual, expected, scale in (
        (y, h * gamma, h),
        (dx, expected_dx, inverse * u),
        (dgamma, (g * h).sum(0, keepdims=True), np.abs(g * h).sum(0)),
    ):
        assert np.linalg.norm(actual - expected) < 2e-6 * np.linalg.norm(scale)


@pytest.mark.slow
def test_a_missing_symbol_means_the_plain_functions():
    code = (
        "import jax, warnings\n"
        "del jax.lax.platform_dependent\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import keras, keras_norm\n"
        "found = [w for w in caught if 'platform_dependent' in str(w.message)]\n"
        "assert len(found) == 1, caught\n"
        "y = keras_norm.ops.normalize(keras.ops.convert_to_tensor([[1.0], [3.0]]), (0,), 1e-6)[0]\n"
        "assert abs(float(y[1, 0]) - 1) < 1e-5\n"
        "assert not keras_norm.ops.registry.registered('normalize')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
