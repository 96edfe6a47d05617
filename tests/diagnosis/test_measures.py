"""Each kind of finding: a model with it, and a model without."""

import numpy as np
import pytest
from keras import layers

import keras_norm
from keras_norm import BatchNormalization, diagnose, update_population_statistics
from keras_norm.conversion.kinds import KINDS
from tests.diagnosis.helpers import data, findings, kinds, make_model
from tests.gradients import numpy

OURS_AND_KERAS = pytest.mark.parametrize("cls", [BatchNormalization, layers.BatchNormalization])


@OURS_AND_KERAS
def test_a_healthy_model_has_no_findings_and_stays_as_it_is(cls):
    x = data(96, 3)
    model = make_model(cls(momentum=0.9), layers.Dense(4), cls(momentum=0.9), layers.Dense(1))
    model.compile("adam", "mse")
    model.fit(x, x[:, :1], epochs=20, verbose=0)
    before = [numpy(variable) for variable in model.variables]
    report = diagnose(model, x, verbose=0)
    assert report.findings == []
    assert str(report) == "No findings in 2 normalization layers."
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, numpy(variable))
    assert "call" not in model.layers[0].__dict__


@OURS_AND_KERAS
def test_statistics(cls):
    x = data(64, 3)
    layer = cls(name="norm")
    model = make_model(layer)
    layer.moving_mean.assign([0.0, 2.0, 0.0])
    layer.moving_variance.assign([1.0, 1.0, 5.0])
    (found,) = findings(model, x)
    assert (found.layer, found.name, found.kind) == (layer, "norm", "statistics")
    assert found.channels == [1, 2]
    # About two deviations, of a tolerance of 0.5; the variance is less far: log 5 / log 2 = 2.3.
    values = x[:, 1].astype("float64")
    assert found.value == pytest.approx((2 - values.mean()) / values.std() / 0.5, rel=2e-3)
    assert "update_population_statistics(model, x)" in found.remedy
    layer.moving_mean.assign([0.0, 0.2, 0.0])
    layer.moving_variance.assign([1.0, 1.0, 1.3])
    assert kinds(model, x) == []


def test_sorted_classes_are_no_noise_of_batches():
    """`fit` shuffles arrays."""
    x = data(64, 3) + np.repeat([0, 4], 32)[:, None].astype("float32")
    model = make_model(BatchNormalization(moving_mean_initializer=[2.0] * 3))
    model.layers[0].moving_variance.assign([5.0] * 3)
    assert kinds(model, x, batch_size=16) == []
    assert kinds(model, ((x[i : i + 16],) for i in range(0, 64, 16))) == ["batch"]


def test_gamma_of_gemma():
    layer = keras_norm.RMSNormalization(gamma_offset=1.0, gamma_initializer="zeros")
    model = make_model(layer)
    assert kinds(model, data(8, 3)) == []
    layer.gamma.assign([-1.0, 0.0, 0.0])
    assert kinds(model, data(8, 3)) == ["gamma"]


def test_the_remedy_of_statistics_heals():
    x = data(64, 3, mean=7.0)
    model = make_model(BatchNormalization(), layers.Dense(4), BatchNormalization())
    assert "statistics" in kinds(model, x)
    update_population_statistics(model, x, verbose=0)
    assert kinds(model, x) == []


@OURS_AND_KERAS
def test_the_remedy_of_frozen_layers(cls):
    """Frozen layers keep their statistics; the usual fault is data of another scale."""
    x = data(64, 3, mean=7.0)
    model = make_model(cls(name="norm", trainable=False))
    (found,) = findings(model, x)
    assert (
        "frozen, so preprocess the data as in its training; or set `trainable = T" in found.remedy
    )
    model.layers[0].trainable = True
    assert "frozen" not in findings(model, x)[0].remedy
    model = keras_norm.from_keras(model)
    update_population_statistics(model, x, verbose=0)
    assert kinds(model, x) == []


@OURS_AND_KERAS
def test_batch(cls):
    x = data(64, 3)
    layer = cls()
    model = make_model(layer)
    (found,) = findings(model, x, batch_size=2)
    assert found.kind == "batch"
    assert found.value == pytest.approx(1 / np.sqrt(2), rel=0.3)
    assert "batch_to_group" in found.remedy
    assert kinds(model, x, batch_size=16) == []
    layer.trainable = False
    assert kinds(model, x, batch_size=2) == []


def test_a_small_last_batch_is_no_noise():
    model = make_model(BatchNormalization())
    assert kinds(model, data(65, 3), batch_size=16) == []
    (found,) = findings(model, data(1001, 3), batch_size=4)
    assert found.value == pytest.approx(1 / np.sqrt(4), rel=0.15)


def batches(x, size):
    return ((x[i : i + size],) for i in range(0, len(x), size))


@OURS_AND_KERAS
def test_batches_of_images_that_are_pooled(cls):
    """A layer after the pooling sees a value for each image."""
    rng = np.random.default_rng(0)
    x = data(128, 8, 8, 3) + 0.3 * rng.standard_normal((128, 1, 1, 3)).astype("float32")
    model = make_model(cls(), layers.GlobalAveragePooling2D(), shape=(8, 8, 3))
    (found,) = findings(model, batches(x, 2))
    means = x.mean((1, 2), dtype="float64")
    scatter = means.reshape(64, 2, 3).mean(1).std(0, ddof=1) / means.std(0)
    assert (found.kind, found.channels) == ("batch", [0, 1, 2])
    assert found.value == pytest.approx(scatter.max(), rel=1e-4)
    assert kinds(model, x, batch_size=2) == ["batch"]
    assert kinds(model, x, batch_size=16) == []
    # Elsewhere positions count, and batches of 2 have 128 of them.
    assert kinds(make_model(cls(), layers.Flatten(), shape=(8, 8, 3)), x, batch_size=2) == []


def test_batches_of_padded_series_that_are_pooled():
    x = 3 + data(128, 6, 2)
    lengths = np.random.default_rng(1).integers(1, 7, 128)
    x[np.arange(6) >= lengths[:, None]] = 0
    norm = BatchNormalization(moving_mean_initializer=[3.0] * 2)
    (found,) = findings(
        make_model(layers.Masking(), norm, layers.GlobalAveragePooling1D(), shape=(6, 2)),
        batches(x, 2),
    )
    assert found.kind == "batch"
    # Samples and batches are weighted by their valid steps.
    x, weights = x.astype("float64"), lengths[:, None].astype("float64")
    mean = x.sum((0, 1)) / lengths.sum()
    means = x.sum(1) / weights
    between = (weights * (means - mean) ** 2).sum(0) / lengths.sum()
    pairs = (weights * means).reshape(64, 2, 2).sum(1), weights.reshape(64, 2, 1).sum(1)
    scatter = (pairs[1] * (pairs[0] / pairs[1] - mean) ** 2).sum(0) / 63 / np.median(pairs[1])
    assert found.value == pytest.approx(np.sqrt(scatter / between).max(), rel=1e-4)


def test_samples_of_equal_means_need_no_large_batches():
    """Then all means of batches agree to float32's rounding."""
    equal = layers.GroupNormalization(3, epsilon=1e-12)
    pool = layers.GlobalAveragePooling2D()
    model = make_model(equal, BatchNormalization(), pool, shape=(8, 8, 3))
    assert kinds(model, data(64, 8, 8, 3), batch_size=2) == []


def test_renorm_needs_no_larger_batches():
    assert kinds(make_model(BatchNormalization(renorm=True)), data(64, 3), batch_size=2) == []


@pytest.mark.parametrize("cls", [c for kind in KINDS for c in (kind.layer, kind.keras) if c])
def test_gamma(cls):
    """Every kind in the table is diagnosed."""
    layer = cls(groups=1) if cls.__name__ == "GroupNormalization" else cls()
    model = make_model(layer)
    gamma = layer.gamma if hasattr(layer, "gamma") else layer.scale
    x = data(64, 3)
    gamma.assign([1.0, 0.0, -0.01])
    (found,) = findings(model, x)
    assert (found.kind, found.channels, found.value) == ("gamma", [1], 0.0)
    assert "dead" in found.remedy
    gamma.assign([np.nan, 1.0, 1.0])
    (found,) = findings(model, x)
    assert (found.kind, found.channels) == ("gamma", [0])
    assert "NaN" in found.remedy
    gamma.assign([1.0, 0.01, -0.01])
    assert kinds(model, x) == []


@OURS_AND_KERAS
def test_constant(cls):
    x = data(64, 3)
    x[:, 1] *= 1e-3
    layer = cls(epsilon=1e-5)
    model = make_model(layer)
    layer.moving_variance.assign([1.0, 1e-6, 1.0])
    (found,) = findings(model, x)
    assert (found.kind, found.channels) == ("constant", [1])
    assert found.value == pytest.approx(1e-6, rel=0.5)
    x[:, 1] *= 10
    layer.moving_variance.assign([1.0, 1e-4, 1.0])
    assert kinds(model, x) == []


@OURS_AND_KERAS
def test_mean(cls):
    far = 3e5 if cls is BatchNormalization else 3e3
    layer = cls()
    model = make_model(layer)
    for mean, expected in ((far, ["mean"]), (far / 10, [])):
        x = data(64, 3, mean=mean)
        layer.moving_mean.assign([mean] * 3)
        found = findings(model, x)
        assert [f.kind for f in found] == expected
        assert all(f.value == pytest.approx(mean, rel=0.3) for f in found)


def test_the_mean_that_made_a_variance_nan_is_found_too():
    """On PyTorch, Keras's variance of such data is negative, and all weights become NaN."""
    layer = layers.BatchNormalization()
    model = make_model(layer)
    for weight in layer.weights:
        weight.assign([np.nan] * 3)
    x = data(64, 3, mean=1e5)
    assert kinds(model, x) == ["gamma", "mean"]
    assert kinds(make_model(layer, layers.Dense(3), layer), x) == ["gamma"]


def test_epsilon_and_float16_of_stored_variances():
    x = data(64, 3)
    layer = layers.BatchNormalization(dtype="float16", epsilon=1e-9)
    assert kinds(make_model(layer), x) == ["epsilon"]
    layer = layers.BatchNormalization(dtype="float16")
    model = make_model(layer)
    assert kinds(model, x) == []
    assert "float16" in kinds(model, 300 * x)
    # Here the variance is a float32.
    layer = BatchNormalization(dtype="float16", epsilon=1e-9)
    layer.build((None, 3))
    layer.moving_variance.assign([90000.0] * 3)
    assert kinds(make_model(layer), 300 * x) == []


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # of 1e5, in Keras's layer
def test_inputs_that_overflow():
    x = data(64, 3)
    grow = layers.Rescaling(1e5, dtype="float16")
    found = findings(make_model(grow, BatchNormalization(dtype="mixed_float16")), x)
    assert [f.kind for f in found] == ["float16"]
    assert "overflow" in found[0].remedy


def test_the_weight_that_is_nan_is_named():
    dense = layers.Dense(3, name="broken")
    model = make_model(dense, BatchNormalization(name="norm"))
    dense.kernel.assign(np.full((3, 3), np.nan))
    (found,) = findings(model, data(8, 3))
    assert (found.name, found.kind) == ("norm", "gamma")
    assert f"the weight '{dense.kernel.path}' is not finite" in found.remedy


def test_masks_keep_padding_out():
    x = data(32, 5, 3, mean=9.0)
    x[:, 3:] = 0
    layer = BatchNormalization(moving_mean_initializer=[9.0] * 3)
    assert kinds(make_model(layers.Masking(), layer, shape=(5, 3)), x) == []


def test_channels_with_masks_of_their_own():
    """With channels first, `Masking` makes masks with an entry for each channel."""
    x = data(64, 3, 6, mean=2.0)
    x[:, 2] = 0
    x[::2, 1] = 0
    layer = keras_norm.BatchNormalization(axis=1)
    model = make_model(layers.Masking(), layer, shape=(3, 6))
    keras_norm.update_population_statistics(model, x, verbose=0)
    assert kinds(model, x) == []
    layer.moving_mean.assign([2, 0, 0])
    (finding,) = findings(model, x)
    assert (finding.kind, list(finding.channels)) == ("statistics", [1])
