"""Updates of moving statistics: once for each batch, and not for frozen layers."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_norm import BatchNormalization
from tests.gradients import numpy

BACKEND = keras.backend.backend()


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def moved(x, batches, momentum=0.9):
    """Returns the moving mean after batches of the layer's inputs, from zero."""
    mean = np.zeros(x.shape[-1])
    for batch in np.split(x.astype("float64"), batches):
        mean = momentum * mean + (1 - momentum) * batch.mean(0)
    return mean


def fit(model, x, **arguments):
    model.compile(keras.optimizers.SGD(0.1, **arguments), "mse")
    model.fit(x, np.ones((len(x), 1), "float32"), batch_size=5, shuffle=False, verbose=0)


def test_gradient_accumulation_moves_them_once_a_batch():
    x = data(20, 3)
    norm = BatchNormalization()
    fit(
        keras.Sequential([keras.Input((3,)), norm, layers.Dense(1)]),
        x,
        gradient_accumulation_steps=2,
    )
    np.testing.assert_allclose(numpy(norm.moving_mean), moved(x, 4), atol=1e-6)


@pytest.mark.parametrize("mode", ["full", "larger_than", "list_of_layers"])
def test_remat_scope_moves_them_once_a_batch(mode):
    x = data(20, 3)
    options = {
        "larger_than": {"output_size_threshold": 1},
        "list_of_layers": {"layer_names": ["n"]},
    }
    with keras.RematScope(mode, **options.get(mode, {})):
        norm = BatchNormalization(name="n")
    # Outside of the scope: Keras cannot recompute a Dense of a compiled step on TensorFlow.
    fit(keras.Sequential([keras.Input((3,)), norm, layers.Dense(1)]), x)
    np.testing.assert_allclose(numpy(norm.moving_mean), moved(x, 4), atol=1e-6)


if BACKEND == "torch":

    @pytest.mark.parametrize("synchronized", [False, True])
    def test_recomputation_of_what_is_around_moves_them_once_a_batch(synchronized):
        x = data(20, 3)
        with keras.RematScope("full"):
            norm = BatchNormalization(synchronized=synchronized)
            block = keras.Sequential([keras.Input((3,)), norm, layers.Dense(3)])
            # The scope also covers the model, so that each step recomputes twice.
            model = keras.Sequential([keras.Input((3,)), block, layers.Dense(1)])
        fit(model, x)
        np.testing.assert_allclose(numpy(norm.moving_mean), moved(x, 4), atol=1e-6)

    @pytest.mark.parametrize("training", [False, True])
    def test_recomputation_has_the_mode_of_an_outer_layer_whose_call_has_ended(training):
        import torch
        from torch.utils.checkpoint import checkpoint

        class Block(layers.Layer):
            """Recomputes its layer, as Keras 3.16 recomputes a model in `keras.RematScope`."""

            def __init__(self):
                super().__init__()
                self.norm = BatchNormalization()

            def call(self, inputs, training=None):
                return checkpoint(self.norm, inputs, use_reentrant=False)

        x, upstream = data(20, 3), data(20, 3, seed=1)
        block, norm = Block(), BatchNormalization()
        gradients = []
        for layer in (block, norm):
            inputs = torch.tensor(x, requires_grad=True)
            layer.build(x.shape)
            (layer(inputs, training=training) * torch.tensor(upstream)).sum().backward()
            gradients.append(numpy(inputs.grad))
        np.testing.assert_array_equal(*gradients)
        np.testing.assert_array_equal(numpy(block.norm.moving_mean), numpy(norm.moving_mean))


if BACKEND == "jax":

    def test_function_under_keras_remat_cannot_move_them():
        import jax

        norm = BatchNormalization()
        norm.build((None, 3))
        function = keras.remat(lambda x: norm(x, training=True))
        jax.grad(lambda x: function(x).sum())(data(5, 3))
        with pytest.raises(jax.errors.UnexpectedTracerError):
            norm(data(5, 3))


def weights_before_and_after_fit(norm):
    x = data(20, 3)
    model = keras.Sequential([keras.Input((3,)), norm, layers.Dense(1)])
    before = [numpy(v) for v in norm.weights]
    fit(model, x)
    after = [numpy(v) for v in norm.weights]
    return {
        v.name: not np.array_equal(old, new)
        for v, old, new in zip(norm.weights, before, after, strict=True)
    }


def test_trainable_can_hold_statistics_still_while_gamma_and_beta_train():
    norm = BatchNormalization()
    norm.build((None, 3))
    norm.trainable = False
    norm.gamma.trainable = norm.beta.trainable = True
    changed = weights_before_and_after_fit(norm)
    assert changed == {
        "gamma": True,
        "beta": True,
        "moving_mean": False,
        "moving_variance": False,
    }


def test_trainable_can_hold_gamma_and_beta_still_while_statistics_move():
    norm = BatchNormalization()
    norm.build((None, 3))
    norm.gamma.trainable = norm.beta.trainable = False
    changed = weights_before_and_after_fit(norm)
    assert changed == {
        "gamma": False,
        "beta": False,
        "moving_mean": True,
        "moving_variance": True,
    }


def test_a_channel_that_is_all_padding_keeps_its_statistics():
    """`Masking` of channels first makes a mask with an entry for each channel."""
    x = data(8, 3, 6)
    x[:, 2] = 0
    x[::2, 1] = 0
    norm = BatchNormalization(axis=1, momentum=0.5)
    model = keras.Sequential([keras.Input((3, 6)), layers.Masking(), norm])
    model(x, training=True)
    kept = [x[:, 0].astype("float64"), x[1::2, 1].astype("float64")]
    np.testing.assert_allclose(
        numpy(norm.moving_mean), [*(0.5 * v.mean() for v in kept), 0], atol=1e-6
    )
    np.testing.assert_allclose(
        numpy(norm.moving_variance), [*(0.5 + 0.5 * v.var() for v in kept), 1], atol=1e-6
    )
