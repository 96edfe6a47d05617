"""The executors: the problems that they take, and their derivatives."""

# Type checkers do not know the length of a starred tuple.
# mypy: disable-error-code="call-arg"

from typing import NamedTuple

import torch

from keras_norm import ops
from keras_norm.kernels.autograd import (
    axes_as_numbers,
    is_differentiated,
    is_transformed,
    plain_gradients,
    wider,
)
from keras_norm.kernels.plan import Form, order_of_parts, plan
from keras_norm.kernels.triton import compiled, launches

DTYPES = torch.float32, torch.bfloat16, torch.float16, torch.float64
# Bound here, so that the import of this module fails if PyTorch lacks it.
_count_modes = torch._C._len_torch_dispatch_stack


class Spec(NamedTuple):
    """A problem in the form of the launches' arguments."""

    order: tuple
    form: Form
    epsilon: float
    centered: bool


def normalize(problem, x, gamma, beta, weights, combine):
    """Solves a problem of `keras_norm.ops.normalize`."""
    planned = _planned(problem, x, gamma, beta, weights)
    if planned is None:
        return None
    spec = Spec(planned.order, planned.form, problem.epsilon, problem.centered)
    if torch.compiler.is_compiling():
        if combine is not None:
            return None
        y, found = compiled.normalize(x, gamma, beta, _viewed(weights, planned), *_lists(spec))
    else:
        if combine is not None:
            combine = _Combination(combine, problem, planned)
        y, found = _Normalize.apply(x, gamma, beta, weights, spec, problem, planned, combine)
    return y, _moments(found, problem, planned) if problem.moments else None


def _lists(spec):
    return [list(spec.order), list(spec.form), *spec[2:]]


def _viewed(weights, planned):
    """Returns a mask in the form, of size 1 where it is broadcast."""
    if weights is None:
        return None
    weights = weights.detach().permute(planned.order).expand(planned.mask.expanded)
    return weights.reshape(planned.mask.form)


def standardize(problem, x, moments, gamma, beta):
    """Solves a problem of `keras_norm.ops.standardize`, for stored statistics."""
    mean, variance = moments.shift, moments.variance
    if moments.residual is not None or mean.shape != variance.shape:
        return None
    if mean.requires_grad or variance.requires_grad or mean.dtype != wider(x.dtype):
        return None
    planned = _planned(problem, x, gamma, beta, None, mean, variance)
    if planned is None or mean.numel() != planned.form.samples * planned.form.groups:
        return None
    spec = Spec(planned.order, planned.form, problem.epsilon, True)
    if torch.compiler.is_compiling():
        flat = (v.permute(spec.order).reshape(-1) for v in (mean, variance))
        return compiled.standardize(x, gamma, beta, *flat, *_lists(spec)[:3])
    return _Standardize.apply(x, gamma, beta, mean, variance, spec)


def _planned(problem, x, *tensors):
    """Returns the plan of a problem if the kernels can take its tensors now; else None."""
    if is_transformed() or torch.jit.is_tracing():
        return None
    if torch.compiler.is_compiling():
        if torch.compiler.is_exporting():
            return None
        problem = problem._replace(axes=axes_as_numbers(problem))
    elif _count_modes() > 0:
        # Tracers of single operations, such as make_fx, must see PyTorch's operations.
        return None
    if x.dtype not in DTYPES or x.numel() == 0:
        return None
    for tensor in (x, *tensors):
        if tensor is not None and not (
            type(tensor) in (torch.Tensor, torch.nn.Parameter)
            and tensor.device == x.device
            and tensor.ndim == x.ndim
            and all(m in (1, n) for m, n in zip(tensor.shape, x.shape, strict=True))
        ):
            return None
    # Dynamo traces the function behind a cache, and warns about the cache.
    planned = plan.__wrapped__ if torch.compiler.is_compiling() else plan
    return planned(problem, _memory_order(x)) or planned(problem, order_of_parts(problem))


def _memory_order(x):
    """Returns the axes from the slowest to the fastest, sorted as `torch.compile` can trace it."""
    order = []
    for axis in range(x.ndim):
        place = len(order)
        while place > 0 and x.stride(order[place - 1]) < x.stride(axis):
            place -= 1
        order.insert(place, axis)
    return tuple(order)


def _moments(found, problem, planned):
    """Returns a buffer of moments as `Moments` of the input."""
    count, *fields = (
        field.view(planned.moments).permute(planned.inverse) for field in found.unbind()
    )
    if problem.mask is None:
        count = count[(0,) * count.ndim]
    else:
        for axis, size in enumerate(problem.mask):
            count = count.narrow(axis, 0, 1) if size == 1 else count
    return ops.Moments(count, *fields)


class _Combination:
    """The function that combines the moments of replicas, and its derivatives.

    The function runs between two kernels. PyTorch differentiates it, by a graph from the residuals
    and variances of this replica to the combined ones.
    """

    def __init__(self, function, problem, planned):
        self.function = function
        self._problem, self._planned = problem, planned

    def forward(self, found):
        """Returns the buffer of the combined moments for the buffer of a replica's moments."""
        with torch.enable_grad():
            self._leaves = [field.clone().requires_grad_() for field in found[2:]]
            count, shift = found[:2]
            fields = count, shift, *self._leaves
            moments = _moments(torch.stack(fields), self._problem, self._planned)
            combined = self.function(moments)
            self._results = tuple(
                field.expand(moments.shift.shape).permute(self._planned.order).reshape(shift.shape)
                for field in combined
            )
        return torch.stack([field.detach() for field in self._results])

    def sums(self, sums, found, combined, epsilon):
        """Returns the moments and sums from which `launches.input_gradient` computes the gradient.

        The output is y = gamma r (x - shift - residual) + beta. The gradients of its moments are
        sums over a set,

            d residual = d shift = -r sum(u)        d variance = -r^2 sum(u h) / 2

        The graph maps these to d residual' and d variance' of this replica's moments. With these,

            dx = r u + w (d residual' + 2 d variance' (x - mean')) / n'

        is r (u - w (a + h' b) / n') with h' = r (x - mean'), if a = -d residual' / r and
        b = -2 d variance' / r^2.
        """
        count, _, _, variance = combined
        is_empty = count == 0
        r = torch.rsqrt(variance + epsilon)
        safe = torch.where(is_empty, 0, r)
        to_mean, to_variance = -safe * sums[0], -0.5 * safe * safe * sums[1]
        results = list(zip(self._results[1:], (to_mean, to_mean, to_variance), strict=True))
        results = [(result, gradient) for result, gradient in results if result.requires_grad]
        to_residual, to_variance = torch.autograd.grad(
            [result for result, _ in results],
            self._leaves,
            [gradient for _, gradient in results],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        own = torch.stack([-to_residual / r, -2 * to_variance / (r * r)])
        number = torch.where(is_empty, 0, found[0].clamp(min=1))
        return (number, found[1], found[2], variance), own


class _Normalize(torch.autograd.Function):
    """Returns the output and the buffer of moments."""

    @staticmethod
    def forward(ctx, x, gamma, beta, weights, spec, problem, planned, combine):
        viewed = _viewed(weights, planned)
        if combine is None:
            y, found = launches.normalize(x, gamma, beta, viewed, *spec)
            own = None
        else:
            own = launches.moments(x, viewed, spec.order, spec.form, spec.centered)
            found = combine.forward(own)
            y = launches.standardize(x, gamma, beta, viewed, *found, *spec[:3])
        ctx.save_for_backward(x, gamma, beta, weights, found, own)
        ctx.spec, ctx.problem, ctx.planned, ctx.combine = spec, problem, planned, combine
        ctx.mark_non_differentiable(found)
        return y, found

    @staticmethod
    def backward(ctx, g, _):
        x, gamma, beta, weights, found, own = ctx.saved_tensors
        spec, combine = ctx.spec, ctx.combine
        if is_differentiated(g):
            function = None if combine is None else combine.function

            def plain(x, gamma, beta):
                return ops.normalize_plain(ctx.problem, x, gamma, beta, weights, function)[0]

            inputs = x, gamma, beta
            return *plain_gradients(plain, inputs, ctx.needs_input_grad, [g]), *[None] * 5
        weights = _viewed(weights, ctx.planned)
        needs_parameters = any(ctx.needs_input_grad[1:3])
        if combine is None:
            dx, *rest = launches.backward(g, x, gamma, weights, found, *spec, needs_parameters)
        else:
            sums, *rest = launches.sums_of_sets(
                g, x, gamma, weights, found, *spec[:3], needs_parameters
            )
            moments, sums = combine.sums(sums, own, found, spec.epsilon)
            dx = launches.input_gradient(g, x, gamma, weights, moments, sums, *spec)
        return dx, *launches.of_parameters(rest, gamma, beta, spec.order), *[None] * 5


class _Standardize(torch.autograd.Function):
    """Returns the output for given means and variances."""

    @staticmethod
    def forward(ctx, x, gamma, beta, mean, variance, spec):
        flat = [v.permute(spec.order).reshape(-1) for v in (mean, variance)]
        ctx.save_for_backward(x, gamma, beta, mean, variance)
        ctx.spec = spec
        return launches.standardize(x, gamma, beta, None, None, flat[0], None, flat[1], *spec[:3])

    @staticmethod
    def backward(ctx, g):
        x, gamma, beta, mean, variance = ctx.saved_tensors
        spec = ctx.spec
        if is_differentiated(g):

            def plain(x, gamma, beta):
                problem = ops.Problem.of(x, (), spec.epsilon, gamma, beta)
                moments = ops.Moments(1, mean, None, variance)
                return ops.standardize_plain(problem, x, moments, gamma, beta)

            inputs = x, gamma, beta
            return *plain_gradients(plain, inputs, ctx.needs_input_grad, [g]), *[None] * 3
        flat = [v.permute(spec.order).reshape(-1) for v in (mean, variance)]
        needs_parameters = any(ctx.needs_input_grad[1:3])
        dx, *rest = launches.constant_backward(g, x, gamma, *flat, *spec[:3], needs_parameters)
        return dx, *launches.of_parameters(rest, gamma, beta, spec.order), *[None] * 3
