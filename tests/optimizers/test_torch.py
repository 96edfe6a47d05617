"""Features of PyTorch: fused updates, `torch.compile`, gradients of all variables."""

import functools

import keras
import numpy as np
import torch

from keras_norm.optimizers import MultiplierOptimizer
from tests.optimizers import cases, test_training


def test_one_fused_update_for_each_multiplier(monkeypatch):
    inner = keras.optimizers.Adam(0.01)
    sizes = []
    update = type(inner)._parallel_update_step

    def count(self, grads, variables, learning_rate):
        sizes.append(len(variables))
        update(self, grads, variables, learning_rate)

    groups = [cases.variables(lr=factor) for factor in (1, 3, 1, 0, 3, 1)]
    optimizer = MultiplierOptimizer(inner)
    optimizer.build([v for group in groups for v in group])  # rehearses an update
    monkeypatch.setattr(type(inner), "_parallel_update_step", count)
    cases.run(optimizer, groups, cases.gradients(1))
    assert sizes == [9, 6]


def test_nadam_advances_its_momentum_product_once_a_step():
    bare, inner = keras.optimizers.Nadam(0.01), keras.optimizers.Nadam(0.01)
    cases.run(bare, [cases.variables()], cases.gradients(3))
    groups = [cases.variables(lr=factor) for factor in (3, 0, 1, 0.1)]
    cases.run(MultiplierOptimizer(inner), groups, cases.gradients(3))
    cases.assert_same(cases.values([inner._u_product]), cases.values([bare._u_product]))


def test_weight_decay_that_excludes_everything():
    """Keras itself fails here."""
    optimizer = MultiplierOptimizer(keras.optimizers.SGD(0.5, weight_decay=0.1))
    variables = cases.variables()
    optimizer.exclude_from_weight_decay(var_list=variables)
    cases.run(optimizer, [variables], cases.gradients(1))


def test_fit_with_torch_compile(monkeypatch):
    # Traced as always; only the code that Dynamo would generate, which takes a minute, is not.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    inner = keras.optimizers.SGD(test_training.RATE, momentum=0.9, weight_decay=0.2)
    model = test_training.linear_model(MultiplierOptimizer(inner, l2=0.3), jit_compile=True)
    test_training.fit(model, 3)
    expected = test_training.regression(
        [test_training.RATE] * 3, momentum=0.9, weight_decay=0.2, l2=0.3
    )
    cases.assert_close(model.get_weights(), expected)


def test_stateless_apply():
    steps = cases.gradients(3)
    groups = [cases.variables(lr=factor) for factor in (0.1, 1)]
    variables = [variable for group in groups for variable in group]
    optimizer = MultiplierOptimizer(keras.optimizers.Nadam(0.01), l2=0.1)
    optimizer.build(variables)
    state = [v.value.detach().clone() for v in optimizer.variables]
    weights = [v.value.detach().clone() for v in variables]
    for step in steps:
        weights, state = optimizer.stateless_apply(
            state, [torch.tensor(g) for _ in groups for g in step], weights
        )
    cases.assert_same(cases.values(variables), 2 * cases.arrays(0))
    cases.run(optimizer, groups, steps)
    cases.assert_close([np.array(w.detach()) for w in weights], cases.values(variables))
