"""`BatchNormalization(synchronized=True)`: replicas act as one."""

import keras
import numpy as np
import pytest

from keras_norm import BatchNormalization
from tests import oracle, replicas
from tests.gradients import numpy

# The promised error is 2e-5; float32's rounding gives 3e-7.
TOLERANCE = 2e-6
# Two forward and one back, of which XLA can make two; None where they cannot be counted.
MESSAGES = (3, 2, None) if keras.backend.backend() == "jax" else (3, None)
SHARDS = {"uneven": (7, 5), "empty": (12, 0), "far from zero": (7, 5), "rank 4": (3, 2)}


def case(name, engine):
    rng = np.random.default_rng(0)
    shape = (2, 3, 4) if name == "rank 4" else (4,)
    mean = 1e4 if name == "far from zero" else 3.0

    def shards(make):
        return [make((n, *shape)).astype("float32") for n in SHARDS[name]]

    return replicas.Case(
        shards(lambda s: mean + rng.standard_normal(s)),
        shards(rng.standard_normal),
        [np.ones(n, bool) for n in SHARDS[name]],
        rng.standard_normal(4).astype("float32"),
        rng.standard_normal(4).astype("float32"),
        engine,
    )


def masked_case(engine):
    """Some samples are padding, NaN among them."""
    made = case("uneven", engine)
    made.masks[0][3:5] = 0
    made.masks[1][:4] = 0
    made.inputs[1][1] = np.nan
    return made


def poisoned_case(engine):
    made = case("uneven", engine)
    made.inputs[1][2, 1] = np.nan
    return made


def renorm_case(engine):
    return case("uneven", engine)._replace(renorm=True)


MAKERS = {
    **{name: (lambda engine, name=name: case(name, engine)) for name in SHARDS},
    "masked": masked_case,
    "poisoned": poisoned_case,
    "renorm": renorm_case,
}
FIRST, *OTHERS = replicas.ENGINES
CASES = {(name, FIRST): make(FIRST) for name, make in MAKERS.items()}
CASES |= {
    (name, engine): MAKERS[name](engine) for name in ("uneven", "renorm") for engine in OTHERS
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    found = replicas.run(list(CASES.values()), tmp_path_factory.mktemp("replicas"))
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize(
    ("name", "engine"), [key for key in CASES if key[0] not in ("poisoned", "renorm")]
)
def test_equals_the_global_batch(results, name, engine):
    made, result = CASES[name, engine], results[name, engine]
    x, upstream, mask = (
        np.concatenate(arrays).astype("float64")
        for arrays in (made.inputs, made.upstream, made.masks)
    )
    weights = mask.reshape(-1, *[1] * (x.ndim - 1))
    x = np.nan_to_num(x)  # padding counts as 0
    axes = range(x.ndim - 1)
    y, mean, variance = oracle.normalize(
        x, axes, replicas.EPSILON, made.gamma, made.beta, weights=weights
    )
    to_x, to_gamma, to_beta, scale = oracle.gradients(
        x, axes, upstream, replicas.EPSILON, made.gamma, weights
    )
    outputs, to_inputs = np.concatenate(result.outputs), np.concatenate(result.to_inputs)
    # Padding with NaN has no gradient: its value is not used.
    used = np.isfinite(np.concatenate(made.inputs))
    assert oracle.error(outputs, y) < TOLERANCE
    assert oracle.error(to_inputs * used, to_x * used, scale) < TOLERANCE
    assert oracle.error(result.to_gamma, oracle.sum_to(to_gamma, mean.shape).ravel()) < TOLERANCE
    assert oracle.error(result.to_beta, oracle.sum_to(to_beta, mean.shape).ravel()) < TOLERANCE
    for moved_mean, moved_variance in zip(result.means, result.variances, strict=True):
        assert oracle.error(moved_mean, 0.5 * mean.ravel()) < TOLERANCE
        assert oracle.error(moved_variance, 0.5 + 0.5 * variance.ravel()) < TOLERANCE


def test_nan_on_one_replica_leaves_the_statistics_of_all(results):
    result = results["poisoned", FIRST]
    np.testing.assert_array_equal(result.means, np.zeros((2, 4)))
    np.testing.assert_array_equal(result.variances, np.ones((2, 4)))
    assert np.isnan(result.outputs[0][:, 1]).all()


@pytest.mark.parametrize("engine", replicas.ENGINES)
def test_renorm_corrects_with_the_global_batch(results, engine):
    made, result = CASES["renorm", engine], results["renorm", engine]
    x = np.concatenate(made.inputs).astype("float64")
    standard, mean, variance = oracle.normalize(x, [0], replicas.EPSILON)
    deviation = np.sqrt(variance + replicas.EPSILON)
    # Its own statistics start at mean 0 and standard deviation 1.
    expected = (standard * deviation + mean) * made.gamma + made.beta
    assert oracle.error(np.concatenate(result.outputs), expected) < TOLERANCE
    moved = (0.5 + 0.5 * deviation.ravel()) ** 2 - replicas.EPSILON
    for moved_mean, moved_variance in zip(result.means, result.variances, strict=True):
        assert oracle.error(moved_mean, 0.5 * mean.ravel()) < TOLERANCE
        assert oracle.error(moved_variance, moved) < TOLERANCE
    assert result.messages in MESSAGES


@pytest.mark.parametrize("engine", replicas.ENGINES)
def test_two_messages_forward_and_one_back(results, engine):
    assert results["uneven", engine].messages in MESSAGES


def test_alone_it_is_the_ordinary_layer():
    x = np.random.default_rng(0).standard_normal((6, 3)).astype("float32")
    results = []
    for synchronized in (False, True):
        layer = BatchNormalization(synchronized=synchronized)
        y = layer(x, training=True)
        results.append([numpy(a) for a in (y, layer.moving_mean, layer.moving_variance)])
    for ordinary, synchronized in zip(*results, strict=True):
        np.testing.assert_array_equal(ordinary, synchronized)


def test_argument_is_kept():
    layer = BatchNormalization.from_config(BatchNormalization(synchronized=True).get_config())
    assert layer.synchronized is True
    assert keras.layers.deserialize(keras.layers.serialize(layer)).synchronized is True
