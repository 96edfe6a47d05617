"""Connected processes on this machine, with each backend's own engine."""

import datetime
import json
import multiprocessing
import os
import socket

import keras


def spawn(function, argument, folder, size=2):
    """Calls `function(rank, argument, folder)` in new processes that are connected.

    Raises:
        AssertionError: If it fails in one of them; the reason is on standard error.
    """
    connect = globals()[f"_connected_on_{keras.backend.backend()}"]
    # Processes of PyTorch and JAX wait for each other; each has one core at most here.
    os.environ["OMP_NUM_THREADS"] = "1"
    ports = [_free_port() for _ in range(size)]
    context = multiprocessing.get_context("spawn")
    arguments = size, ports, folder, function, argument
    processes = [
        context.Process(target=connect, args=(rank, *arguments), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    for process in processes:
        process.kill()
    assert [process.exitcode for process in processes] == [0] * size


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _connected_on_torch(rank, size, ports, folder, function, argument):
    from torch import distributed

    distributed.init_process_group(
        "gloo",
        init_method=(folder / "store").as_uri(),
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=120),
    )
    function(rank, argument, folder)
    distributed.barrier()  # as in examples/distributed/torch_ddp.py
    distributed.destroy_process_group()


def _connected_on_jax(rank, size, ports, folder, function, argument):
    import jax

    jax.distributed.initialize(f"127.0.0.1:{ports[0]}", num_processes=size, process_id=rank)
    function(rank, argument, folder)


def _connected_on_tensorflow(rank, size, ports, folder, function, argument):
    workers = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    function(rank, argument, folder)
