import keras
import numpy as np
import pytest
from keras import layers

from keras_norm import BatchNormalization, population
from keras_norm.callbacks import Diagnosis, PopulationStatistics
from tests import oracle
from tests.gradients import numpy

# The promised error of the moments of all data.
TOLERANCE = 2e-6


def data(*shape, seed=0):
    return (3 + np.random.default_rng(seed).standard_normal(shape)).astype("float32")


def make_model(**optimizer):
    norm = BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3), norm, layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, **optimizer), "mse")
    return model, norm


def check_population(model, norm, x):
    """The statistics are those of the final weights: what goes in is linear."""
    kernel, bias = (numpy(v).astype("float64") for v in model.layers[0].weights)
    fed = x @ kernel + bias
    assert oracle.error(norm.moving_mean, fed.mean(0)) < TOLERANCE
    assert oracle.error(norm.moving_variance, fed.var(0)) < TOLERANCE


@pytest.mark.parametrize("optimizer", [{}, {"use_ema": True}], ids=["plain", "averaged weights"])
def test_when_fit_ends(optimizer):
    x, y = data(20, 3), data(20, 1)
    model, norm = make_model(**optimizer)
    callback = PopulationStatistics(x, batch_size=7, verbose=0)
    model.fit(x, y, batch_size=8, epochs=2, callbacks=[callback], verbose=0)
    check_population(model, norm, x)


@pytest.mark.parametrize("before_validation", [False, True])
def test_before_each_validation_on_request(before_validation):
    x, y = data(20, 3), data(20, 1)
    model, norm = make_model()
    seen = []

    class Look(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append([numpy(v) for v in (*model.layers[0].weights, norm.moving_mean)])

    statistics = PopulationStatistics(x, verbose=0, before_validation=before_validation)
    callbacks = [statistics, Look()]
    arguments = {"batch_size": 8, "epochs": 2, "verbose": 0, "callbacks": callbacks}
    model.fit(x, y, validation_data=(x, y), **arguments)
    assert len(seen) == 2
    for kernel, bias, mean in seen:
        is_population = oracle.error(mean, (x @ kernel + bias).mean(0)) < TOLERANCE
        assert is_population == before_validation
    check_population(model, norm, x)
    norm.moving_mean.assign([7, 7, 7])
    model.evaluate(x, y, verbose=0, callbacks=callbacks)
    np.testing.assert_array_equal(numpy(norm.moving_mean), [7, 7, 7])


def test_an_evaluation_after_a_fit_that_failed_changes_nothing():
    def fail(epoch, logs=None):
        raise KeyboardInterrupt

    x, y = data(20, 3), data(20, 1)
    model, norm = make_model()
    callback = PopulationStatistics(x, verbose=0, before_validation=True)
    callbacks = [callback, keras.callbacks.LambdaCallback(on_epoch_begin=fail)]
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, callbacks=callbacks, verbose=0)
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
    norm.moving_mean.assign([7, 7, 7])
    model.evaluate(x, y, verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(numpy(norm.moving_mean), [7, 7, 7])


def test_every_n_epochs_and_at_the_end():
    x, y = data(20, 3), data(20, 1)
    model, norm = make_model()
    is_population = []

    def look(epoch, logs):
        if keras.backend.backend() == "jax":
            model.jax_state_sync()
        kernel, bias = map(numpy, model.layers[0].weights)
        mean = (x @ kernel + bias).mean(0)
        is_population.append(oracle.error(norm.moving_mean, mean) < TOLERANCE)

    statistics = PopulationStatistics(x, verbose=0, every=2)
    callbacks = [statistics, keras.callbacks.LambdaCallback(on_epoch_end=look)]
    model.fit(x, y, epochs=5, batch_size=8, callbacks=callbacks, verbose=0)
    assert is_population == [False, True, False, True, False]
    check_population(model, norm, x)


def test_an_update_that_fails_warns_and_leaves_the_trained_model():
    def good_then_bad():
        yield (x,)
        raise OSError("lost")

    x, y = data(20, 3), data(20, 1)
    keras.utils.set_random_seed(0)
    expected, norm = make_model()
    expected.fit(x, y, epochs=2, verbose=0)
    for bad in (good_then_bad(), data(20, 7)):
        keras.utils.set_random_seed(0)
        model, norm = make_model()
        callback = PopulationStatistics(bad, verbose=0)
        with pytest.warns(UserWarning, match="failed, and the layers keep their moving statis"):
            history = model.fit(x, y, epochs=2, callbacks=[callback], verbose=0)
        assert len(history.history["loss"]) == 2
        for one, other in zip(model.variables, expected.variables, strict=True):
            np.testing.assert_array_equal(numpy(one), numpy(other))
        assert norm._observer is None


def test_the_warning_of_a_failure_does_not_quote_all_data():
    def batches():
        yield data(200, 3)  # Keras requires tuples, and quotes what it received

    model, _ = make_model()
    callback = PopulationStatistics(batches(), verbose=0)
    with pytest.warns(UserWarning, match="the generator must return a tuple") as caught:
        model.fit(data(20, 3), data(20, 1), callbacks=[callback], verbose=0)
    assert max(len(str(one.message)) for one in caught) < 700


def test_an_interrupt_is_passed_on(monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    model, _ = make_model()
    callback = PopulationStatistics(data(2, 3), verbose=0)
    monkeypatch.setattr(population, "update_population_statistics", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(data(2, 3), data(2, 1), callbacks=[callback], verbose=0)


def test_arguments_are_checked_at_once():
    with pytest.raises(ValueError, match="every=0"):
        PopulationStatistics(data(2, 3), every=0)
    with pytest.raises(ValueError, match="passes=0"):
        PopulationStatistics(data(2, 3), passes=0)
    with pytest.raises(ValueError, match="`x` must be data"):
        PopulationStatistics(None)
    with pytest.raises(TypeError, match="before_validation='no'"):
        PopulationStatistics(data(2, 3), before_validation="no")


def test_a_generator_that_would_be_used_up_is_refused():
    def batches():
        yield (data(2, 3),)

    for options in ({"passes": 2}, {"every": 1}, {"before_validation": True}):
        with pytest.raises(ValueError, match="A generator is used up"):
            PopulationStatistics(batches(), **options)
        PopulationStatistics(batches(), steps=1, **options)
    with pytest.raises(ValueError, match="A generator is used up"):
        Diagnosis(batches())
    Diagnosis(batches(), steps=1)


def test_the_model_is_checked_before_it_is_trained():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile(loss="mse")
    epochs = []
    callbacks = [
        PopulationStatistics(data(2, 3)),
        keras.callbacks.LambdaCallback(on_epoch_begin=lambda *arguments: epochs.append(arguments)),
    ]
    with pytest.raises(ValueError, match="at least one `keras_norm"):
        model.fit(data(2, 3), data(2, 1), callbacks=callbacks, verbose=0)
    assert not epochs


def norms_of(printed):
    """Returns epochs, and the layers and kinds of the tables under them."""
    lines = [line.split() for line in printed.splitlines()]
    return [line[3] if line[0] == "Diagnosis" else " ".join(line[:2]) for line in lines
            if line[:1] in (["Diagnosis"], ["norm"])]  # fmt: skip


def test_diagnosis_prints_new_findings(capsys):
    x, y = data(64, 3), data(64, 1)
    # The moving statistics never move.
    norm = BatchNormalization(name="norm", momentum=1.0)
    model = keras.Sequential([keras.Input((3,)), norm, layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    callback = Diagnosis(x, batch_size=16, every=2)
    for _ in range(2):
        model.fit(x, y, epochs=5, callbacks=[callback], verbose=0)
        assert norms_of(capsys.readouterr().out) == ["2:", "norm statistics"]
    norm.gamma.assign([0.0, 1.0, 1.0])
    norm.gamma.trainable = False
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    assert norms_of(capsys.readouterr().out) == ["2:", "norm gamma", "norm statistics"]


def test_diagnosis_of_a_healthy_model_prints_nothing_and_changes_nothing(capsys):
    x, y = data(64, 3), data(64, 1)
    results = []
    for callbacks in ([Diagnosis(x)], []):
        keras.utils.set_random_seed(0)
        norm = BatchNormalization(moving_mean_initializer=[3.0] * 3)
        model = keras.Sequential([keras.Input((3,)), norm, layers.Dropout(0.5), layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        model.fit(x, y, epochs=3, callbacks=callbacks, verbose=0)
        results.append([numpy(v) for v in model.variables])
    assert capsys.readouterr().out == ""
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_diagnosis_that_fails_warns_and_training_goes_on():
    x, y = data(20, 3), data(20, 1)
    model, _ = make_model()
    with pytest.warns(UserWarning, match=r"Diagnosis failed .*training continues") as caught:
        history = model.fit(x, y, epochs=2, callbacks=[Diagnosis(data(20, 7))], verbose=0)
    assert any("after epoch 1," in str(one.message) for one in caught)
    assert len(history.history["loss"]) == 2
    with pytest.raises(ValueError, match="every=0"):
        Diagnosis(x, every=0)
    with pytest.raises(ValueError, match="`x` must be data"):
        Diagnosis(None)
