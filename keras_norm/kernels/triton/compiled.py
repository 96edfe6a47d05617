"""The launches as custom operations for `torch.compile`.

In eager PyTorch, a custom operation takes longer to call than an `autograd.Function`, and only the
latter can leave second derivatives to the plain functions.
"""

import torch

from keras_norm.kernels.autograd import wider
from keras_norm.kernels.plan import Form
from keras_norm.kernels.triton import launches


def operation(name, schema):
    """Returns a decorator that makes a function an operation.

    The schema is written out, as versions of PyTorch differ in the annotations that they accept.
    PyTorch keeps compiled graphs on disk, under the names of their operations. After a change of a
    schema, raise the number in the names. Otherwise a kept graph calls the new operation.

    Args:
        name: Name of the operation.
        schema: Types of the arguments and results, in the words of `torch.library`.
    """
    return torch.library.custom_op(f"keras_norm_1::{name}", mutates_args=(), schema=schema)


@operation(
    "triton_normalize",
    "(Tensor x, Tensor? gamma, Tensor? beta, Tensor? weights, int[] order, int[] form, "
    "float epsilon, bool centered) -> (Tensor, Tensor)",
)
def normalize(x, gamma, beta, weights, order, form, epsilon, centered):
    """See `launches.normalize`."""
    return launches.normalize(x, gamma, beta, weights, order, Form(*form), epsilon, centered)


@operation(
    "triton_normalize_backward",
    "(Tensor g, Tensor x, Tensor? gamma, Tensor? weights, Tensor found, int[] order, "
    "int[] form, float epsilon, bool centered) -> (Tensor, Tensor, Tensor)",
)
def normalize_backward(g, x, gamma, weights, found, order, form, epsilon, centered):
    """See `launches.backward`."""
    spec = order, Form(*form), epsilon, centered
    return _own(*launches.backward(g, x, gamma, weights, found, *spec, needs_parameters=True))


@operation(
    "triton_standardize",
    "(Tensor x, Tensor? gamma, Tensor? beta, Tensor mean, Tensor variance, int[] order, "
    "int[] form, float epsilon) -> Tensor",
)
def standardize(x, gamma, beta, mean, variance, order, form, epsilon):
    """See `launches.standardize`."""
    return launches.standardize(
        x, gamma, beta, None, None, mean, None, variance, order, Form(*form), epsilon
    )


@operation(
    "triton_standardize_backward",
    "(Tensor g, Tensor x, Tensor? gamma, Tensor mean, Tensor variance, int[] order, "
    "int[] form, float epsilon) -> (Tensor, Tensor, Tensor)",
)
def standardize_backward(g, x, gamma, mean, variance, order, form, epsilon):
    """See `launches.constant_backward`."""
    spec = order, Form(*form), epsilon
    found = launches.constant_backward(g, x, gamma, mean, variance, *spec, needs_parameters=True)
    return _own(*found)


def _own(dx, dgamma, dbeta):
    """Returns the tensors without shared memory, as custom operations require."""
    return dx, dgamma.clone(), dbeta.clone()


@normalize.register_fake
def _(x, gamma, beta, weights, order, form, epsilon, centered):
    found = x.new_empty((4, form[0], form[2]), dtype=wider(x.dtype))
    return launches.empty(x, order), found


@standardize.register_fake
def _(x, gamma, beta, mean, variance, order, form, epsilon):
    return launches.empty(x, order)


@normalize_backward.register_fake
def _(g, x, gamma, weights, found, order, form, epsilon, centered):
    return _fake_gradients(x, order, form)


@standardize_backward.register_fake
def _(g, x, gamma, mean, variance, order, form, epsilon):
    return _fake_gradients(x, order, form)


def _fake_gradients(x, order, form):
    by_channel = x.new_empty((form[2] * form[3],), dtype=wider(x.dtype))
    return launches.empty(x, order), by_channel, by_channel.clone()


def _save_normalize(ctx, inputs, output):
    x, gamma, beta, weights, *ctx.spec = inputs
    ctx.save_for_backward(x, gamma, beta, weights, output[1])
    ctx.mark_non_differentiable(output[1])


def _save_standardize(ctx, inputs, output):
    x, gamma, beta, mean, variance, *ctx.spec = inputs
    ctx.save_for_backward(x, gamma, beta, mean, variance)


def _normalize_gradients(ctx, g, _):
    x, gamma, beta, *rest = ctx.saved_tensors
    dx, *found = normalize_backward(g, x, gamma, *rest, *ctx.spec)
    return dx, *launches.of_parameters(found, gamma, beta, ctx.spec[0]), *[None] * 5


def _standardize_gradients(ctx, g):
    x, gamma, beta, *rest = ctx.saved_tensors
    dx, *found = standardize_backward(g, x, gamma, *rest, *ctx.spec)
    return dx, *launches.of_parameters(found, gamma, beta, ctx.spec[0]), *[None] * 5


normalize.register_autograd(_normalize_gradients, setup_context=_save_normalize)
standardize.register_autograd(_standardize_gradients, setup_context=_save_standardize)
