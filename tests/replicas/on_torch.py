import pickle
from unittest import mock

import numpy as np
import torch
from torch import distributed

from tests import replicas
from tests.gradients import numpy
from tests.old_keras import COMPILES_WHOLE_LAYERS
from tests.replicas import processes

ENGINES = ("eager", "DistributedDataParallel", "torch.compile")


def run(cases, folder):
    """Runs all cases in one pair of processes: importing Keras there takes seconds."""
    processes.spawn(_run, cases, folder)
    by_rank = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]
    return [_joined(*results) for results in zip(*by_rank, strict=True)]


def _run(rank, cases, folder):
    results = [_run_local(rank, case) for case in cases]
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results))


def _run_local(rank, case):
    layer = module = replicas.make_layer(case)
    if case.engine == "DistributedDataParallel":
        module = torch.nn.parallel.DistributedDataParallel(layer)
    elif case.engine == "torch.compile":
        module = torch.compile(layer, backend="aot_eager", fullgraph=COMPILES_WHOLE_LAYERS)
    x = torch.tensor(case.inputs[rank], requires_grad=True)

    def step():
        y = module(x, training=True, mask=torch.tensor(case.masks[rank]))
        y.backward(torch.tensor(case.upstream[rank]))
        return y

    if case.engine == "torch.compile":
        y, messages = step(), None  # it cannot look into a mock
    else:
        all_reduce = mock.Mock(side_effect=distributed.all_reduce)
        with mock.patch.object(distributed, "all_reduce", all_reduce):
            y = step()
        messages = all_reduce.call_count
    to_gamma, to_beta = layer.gamma.value.grad, layer.beta.value.grad
    if case.engine == "DistributedDataParallel":
        to_gamma, to_beta = to_gamma * 2, to_beta * 2  # it takes the mean
    else:
        distributed.all_reduce(to_gamma)
        distributed.all_reduce(to_beta)
    fields = (y, x.grad, to_gamma, to_beta, layer.moving_mean.value, layer.moving_variance.value)
    return *(numpy(a) for a in fields), messages


def _joined(first, second):
    y, to_x, _, _, means, variances, _ = zip(first, second, strict=True)
    np.testing.assert_array_equal(first[2:4], second[2:4])
    return replicas.Result(y, to_x, *first[2:4], means, variances, first[6])
