"""ONNX's published test vectors for its four normalizations, on the layers of keras_norm."""

import numpy as np
import onnx.backend.test.case.node
import onnx.helper
import pytest

from keras_norm import BatchNormalization, GroupNormalization, LayerNormalization
from tests.gradients import numpy


def batch(x, gamma, beta, mean, variance, momentum=0.9, **arguments):
    return BatchNormalization(
        axis=1,
        momentum=momentum,
        moving_mean_initializer=mean,
        moving_variance_initializer=variance,
        gamma_initializer=gamma,
        beta_initializer=beta,
        **arguments,
    )


def layer(x, gamma, beta, axis=-1, **arguments):
    axes = list(range(axis % x.ndim, x.ndim))
    return LayerNormalization(
        axes, reduction_axes=axes, gamma_initializer=gamma, beta_initializer=beta, **arguments
    )


def group(x, gamma, beta, num_groups="channel-wise", **arguments):
    return GroupNormalization(
        num_groups, axis=1, gamma_initializer=gamma, beta_initializer=beta, **arguments
    )


LAYERS = {
    "BatchNormalization": batch,
    "LayerNormalization": layer,
    "GroupNormalization": group,
    "InstanceNormalization": group,
}


def published():
    """Yields the name, the node, the inputs and the outputs of each case."""
    with np.errstate(all="ignore"):
        cases = onnx.backend.test.case.node.collect_testcases(None)
    for case in cases:
        (node, *others) = case.model.graph.node
        if node.op_type in LAYERS and not others:
            for inputs, outputs in case.data_sets:
                yield pytest.param(node, inputs, outputs, id=case.name)


CASES = list(published())


@pytest.mark.parametrize(("node", "inputs", "outputs"), CASES)
def test_published_vectors(node, inputs, outputs):
    arguments = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    training = bool(arguments.pop("training_mode", 0))
    made = LAYERS[node.op_type](*inputs, **arguments)
    np.testing.assert_allclose(
        numpy(made(inputs[0], training=training)), outputs[0], rtol=1e-6, atol=1e-6
    )
    if training:
        np.testing.assert_allclose(numpy(made.moving_mean), outputs[1], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(numpy(made.moving_variance), outputs[2], rtol=1e-6)


def test_every_operator_has_vectors():
    assert {case.values[0].op_type for case in CASES} == set(LAYERS)
