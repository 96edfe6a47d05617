"""Counts the memory traffic of XLA's programs for a card, without a card.

    pip install --no-deps jax-cuda12-pjrt==VERSION_OF_JAX
    KERAS_BACKEND=jax python -m benchmarks.xla --output benchmarks/results
    KERAS_BACKEND=tensorflow python -m benchmarks.xla --output benchmarks/results

JAX's plugin for CUDA contains XLA's compiler for cards, which needs only the description of a card.
It compiles TensorFlow's programs too, so TensorFlow's environment needs JAX. TensorFlow's own XLA
may be another version.

A step is one program here, and its top level is a list of kernels. The script counts the bytes of
the arrays that each kernel takes and returns, once for each kernel, so it cannot detect arrays that
are read twice or in part. Of several branches, the largest counts. XLA chooses some kernels by
timing them on the card, which it cannot do here. The lines are added to `accelerator.json`.
"""

import argparse
import importlib.util
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import keras

from benchmarks.accelerator import BYTES_A_SECOND, members

# An H100, in the words of XLA's `GpuTargetConfigProto`.
CARD = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84978434048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

BYTES = {"pred": 1, "bf16": 2}
ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+)\[([\d,]*)\]")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
CALLED = re.compile(r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
# Instructions that are not kernels.
FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "after-all"}


def compiler():
    """Returns a function that compiles a program in HLO's text for the card that is described."""
    from jax._src.compiler import get_compile_options
    from jax._src.lib import _jax, xla_client

    plugin = importlib.util.find_spec("jax_plugins.xla_cuda12")
    if plugin is None:
        raise SystemExit("jax-cuda12-pjrt is not installed; see the head of benchmarks/xla.py")
    jax.config.update("jax_platforms", "cpu")
    jax.devices()  # Registers the plugins that JAX finds.
    if not xla_client.pjrt_plugin_loaded("cuda"):
        folder = pathlib.Path(plugin.submodule_search_locations[0])
        xla_client.load_pjrt_plugin_dynamically("cuda", str(folder / "xla_cuda_plugin.so"))
    if not xla_client.pjrt_plugin_initialized("cuda"):
        xla_client.initialize_pjrt_plugin("cuda")
    options = {"topology": "1x1x1", "target_config": CARD}
    (device,) = _jax.get_default_c_api_topology(
        "cuda", "cuda", options
    )._make_compile_only_devices()
    devices = xla_client.DeviceList((device,))
    options = get_compile_options(num_replicas=1, num_partitions=1)

    def compiled(program):
        return device.client.compile(stablehlo(program), devices, options).hlo_modules()[0]

    return compiled


def stablehlo(program):
    """Returns a program in HLO's text as a module that PJRT's compilers take."""
    from jax._src.interpreters.mlir import make_ir_context
    from jax._src.lib import _jax, xla_client
    from jax._src.lib.mlir import ir

    # StableHLO has no copy, which TensorFlow adds to results. A reshape to the same shape is free.
    program = program.replace(" copy(", " reshape(")
    module = xla_client.hlo.hlo_module_from_text(program)
    with make_ir_context():
        return ir.Module.parse(_jax.mlir.hlo_to_stablehlo(module.as_serialized_hlo_module_proto()))


def moved(program):
    """Returns bytes and kernels of an optimized program in HLO's text."""
    computations, entry, lines = {}, None, None
    for text in program.splitlines():
        if found := COMPUTATION.match(text):
            lines = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
        elif text.startswith("}"):
            lines = None
        elif lines is not None and (found := INSTRUCTION.match(text)):
            lines.append(found.groups())
    return _moved(computations, entry)


def _moved(computations, name):
    moved = kernels = 0
    sizes = {}
    for own, made, kind, rest in computations[name]:
        sizes[own] = _bytes(made)
        if kind in FREE:
            continue
        called = CALLED.findall(rest)
        if branches := BRANCHES.search(rest):
            called = [branch.strip(" %") for branch in branches[1].split(",")]
        if kind == "conditional":
            found = max(_moved(computations, branch) for branch in called)
        elif kind == "call":
            found = _moved(computations, called[0])
        else:
            operands = re.findall(r"%([\w.\-]+)", rest.partition("), ")[0])
            found = sizes[own] + sum(sizes.get(v, 0) for v in set(operands)), 1
        moved, kernels = moved + found[0], kernels + found[1]
    return moved, kernels


def _bytes(made):
    return sum(
        BYTES.get(kind, int(re.sub(r"\D", "", kind) or 8) // 8)
        * math.prod(int(size) for size in sizes.split(",") if size)
        for kind, sizes in ARRAY.findall(made)
    )


def program(backend, row, make, masked, step):
    """Returns the program of a step as the backend passes it to XLA, in HLO's text."""
    layer = make(dtype=row.dtype if row.dtype == "float32" else f"mixed_{row.dtype}")
    layer.build(row.shape)
    return backend.program(layer, row.shape, row.dtype, step, masked)


def line_of(backend, row, step, compiled):
    """Returns the passes over the input and the kernels of one step, for keras_norm and Keras."""
    line = {"row": row.name, "shape": row.shape, "step": step}
    size = math.prod(row.shape) * jnp.dtype(row.dtype).itemsize
    for name, make, masked in (("ours", row.ours, row.mask), ("keras", row.keras, row.keras_masks)):
        made = compiled(program(backend, row, make, masked, step))
        count, kernels = moved(made.to_string())
        line[name] = {
            "passes": round(count / size, 2),
            "kernels": kernels,
            "computed ms": round(1e3 * count / BYTES_A_SECOND, 4),
        }
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny inputs: to see that all runs")
    parser.add_argument("--output", type=pathlib.Path, help="folder of accelerator.json")
    arguments = parser.parse_args()
    backend = importlib.import_module(f"benchmarks.on_{keras.backend.backend()}")
    compiled = compiler()
    lines = []
    for row in members(arguments.tiny):
        for step in row.steps:
            lines.append(line_of(backend, row, step, compiled))
            print(lines[-1], flush=True)
    if arguments.output:
        path = arguments.output / "accelerator.json"
        result = json.loads(path.read_text()) if path.exists() else {}
        versions = {"version": backend.VERSION, "compiler": f"jax {jax.__version__}"}
        result.setdefault("xla", {})[keras.backend.backend()] = {**versions, "lines": lines}
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
