"""Counts the memory traffic of normalization on an accelerator, and compiles its kernels for cards.

    python -m benchmarks.accelerator --output benchmarks/results

No card is needed. Triton's interpreter runs the kernels on the CPU, and each element that one loads
or stores is counted: once for a tile, and gamma, beta and moments once for a launch, as caches
serve what is repeated. Of PyTorch's own operations (Keras's layers, native functions, small sums of
ours) the bytes of inputs and outputs are counted, which leaves out what a native kernel reads
twice. Then every kernel that was launched is compiled ahead of time, for each of `TARGETS`. A row
above its budget or a kernel that does not compile fails the command.
"""

import argparse
import contextlib
import datetime
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

# Bytes a second of an H100's memory, by its maker: for times that are computed, not measured.
CARD, BYTES_A_SECOND = "H100 (SXM)", 3.35e12
TARGETS = {"H100": ("cuda", 90, 32), "MI300": ("hip", "gfx942", 64)}
# The most passes over the input, by step: of batch normalization in inference, and of all else.
PASSES = {"training": 8.5, "inference": 3.3}
PASSES_OF_BATCH = 2.2
FORWARD_LAUNCHES, BACKWARD_LAUNCHES = 3, 4
# Programs of a launch that are counted, at equal distances.
SAMPLED_PROGRAMS = 16
# Tensors that stay in a card's cache for a launch, which reads them from memory once: gamma, beta
# and most moments. The second cache of an H100 has 50 MB, of an MI300 4 MB for each die.
CACHED_BYTES = 2**20


class Counter:
    """Bytes and launches, of kernels and of PyTorch's operations."""

    def __init__(self):
        self.moved = self.launches = self.kernels = 0
        self.inside = False

    def add(self, moved):
        """Counts an operation."""
        self.moved += moved
        self.launches += 1
        self.kernels += self.inside


@contextlib.contextmanager
def counted():
    """Counts what runs inside the context."""
    import numpy as np
    from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
    from torch.utils._pytree import tree_leaves
    from triton.language import int32
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    from keras_norm.kernels.triton import functions, launches

    counter = Counter()
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def of_tile(pointers, mask):
        places = np.unique(pointers.data[mask.data])
        if len(places):
            size = pointers.get_element_ty().primitive_bitwidth // 8
            counter.by_start[max(s for s in counter.by_start if s <= places[0])] += size * len(
                places
            )

    def counting_load(self, pointers, mask, *rest):
        of_tile(pointers, mask)
        return load(self, pointers, mask, *rest)

    def counting_store(self, pointers, value, mask, *rest):
        of_tile(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def counting_launch(kernel, programs, *arguments):
        # Some programs stand for all, as the interpreter takes milliseconds for each.
        counter.add(0)
        sampled = min(programs, SAMPLED_PROGRAMS)
        counter.programs = programs, sampled
        tensors = {v.data_ptr(): v for v in arguments if is_tensor(v)}
        counter.by_start = dict.fromkeys(tensors, 0)
        with _disable_current_modes():
            launch(kernel, sampled, *arguments)
        for start, moved in counter.by_start.items():
            size = tensors[start].untyped_storage().nbytes()
            most = size if size <= CACHED_BYTES else math.inf
            counter.moved += min(moved * programs / sampled, most)

    def program_id(self, axis):
        programs, sampled = counter.programs
        return TensorHandle(np.array([self.grid_idx[axis] * programs // sampled], "int32"), int32)

    def number_of_programs(self, axis):
        return TensorHandle(np.array([counter.programs[0]], "int32"), int32)

    def inside(function):
        def run(*arguments, **options):
            outer, counter.inside = counter.inside, True
            try:
                return function(*arguments, **options)
            finally:
                counter.inside = outer

        return run

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            out = operation(*args, **(kwargs or {}))
            is_view = any(a.alias_info and not a.alias_info.is_write
                          for a in operation._schema.arguments)  # fmt: skip
            if not is_view and "empty" not in operation._schema.name:
                inputs = {id(v): v for v in tree_leaves((args, kwargs)) if is_tensor(v)}
                outputs = [v for v in tree_leaves(out) if is_tensor(v)]
                counter.add(sum(map(size_of, [*inputs.values(), *outputs])))
            return out

    launch = launches._launch
    names = "normalize", "standardize", "backward", "constant_backward"
    replaced = [
        (InterpreterBuilder, "create_masked_load", counting_load),
        (InterpreterBuilder, "create_masked_store", counting_store),
        (InterpreterBuilder, "create_get_program_id", program_id),
        (InterpreterBuilder, "create_get_num_programs", number_of_programs),
        (launches, "_launch", counting_launch),
        # The executors leave what is watched to PyTorch's operations.
        (functions, "_count_modes", lambda: 0),
        *((launches, name, inside(getattr(launches, name))) for name in names),
    ]
    with contextlib.ExitStack() as stack:
        for place, name, value in replaced:
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, value)
        stack.enter_context(Mode())
        yield counter


def is_tensor(value):
    return hasattr(value, "untyped_storage")


def size_of(tensor):
    """Returns the bytes of a tensor, those that it repeats once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.itemsize * math.prod(size for size, stride in sizes if stride or not size)


def count(row, name, step):
    """Returns passes over the input and launches, forward and backward, of a contender."""
    import numpy as np
    import torch

    from benchmarks import on_torch

    dtype = getattr(torch, row.dtype)
    x, g = (
        torch.tensor(np.random.default_rng(seed).standard_normal(row.shape, "float32")).to(dtype)
        for seed in (0, 1)
    )
    is_training = step == "training"
    if name == "native":
        kind, options = row.native
        function, channels = on_torch.NATIVE[kind](x, is_training, **options)
        parameters = [torch.ones(channels, requires_grad=is_training) for _ in range(2)]
        forward = lambda x: function(x, *parameters)  # noqa: E731
    else:
        policy = row.dtype if row.dtype == "float32" else f"mixed_{row.dtype}"
        layer = getattr(row, name)(dtype=policy)
        layer.build(row.shape)
        parameters = [variable.value for variable in layer.trainable_variables]
        mask = None
        if row.mask and name == "ours":
            mask = torch.ones(row.shape[:2], dtype=torch.bool)
            mask[:, row.shape[1] // 2 :] = False
        options = {} if mask is None else {"mask": mask}
        forward = lambda x: layer(x, training=is_training, **options)  # noqa: E731
    x.requires_grad_(is_training)
    found = []
    with counted() as counter, contextlib.nullcontext() if is_training else torch.no_grad():
        y = forward(x)
        found.append((counter.moved, counter.launches, counter.kernels))
        if is_training:
            torch.autograd.grad(y, [x, *parameters], g)
            found.append((counter.moved, counter.launches, counter.kernels))
    before = 0, 0, 0
    parts = []
    for part in found:
        parts.append([a - b for a, b in zip(part, before, strict=True)])
        before = part
    moved, launches, kernels = zip(*parts, strict=True)
    size = x.numel() * x.itemsize
    return {
        "passes": [round(m / size, 2) for m in moved],
        "launches": list(launches),
        **({"kernels": list(kernels)} if name == "ours" else {}),
        "computed ms": round(1e3 * sum(moved) / BYTES_A_SECOND, 4),
    }


def counts(members):
    """Returns the lines of the table, and what is above its budget."""
    lines, above = [], []
    for row in members:
        for step in row.steps:
            if step == "frozen":
                continue
            line = {"row": row.name, "shape": row.shape, "step": step}
            for name in ("ours", "keras", "native"):
                if name != "native" or (row.native and row.dtype == "float32" and not row.mask):
                    line[name] = count(row, name, step)
            most = PASSES[step]
            if step == "inference" and row.passes == 2:
                most = PASSES_OF_BATCH
            line["budget"] = most
            ours = line["ours"]
            limits = FORWARD_LAUNCHES, BACKWARD_LAUNCHES
            if sum(ours["passes"]) > most or any(
                number > limit for number, limit in zip(ours["kernels"], limits, strict=False)
            ):
                above.append(f"{row.name}, {step}: {ours}")
            lines.append(line)
            passes = {k: v["passes"] for k, v in line.items() if isinstance(v, dict)}
            print(f"{row.name}, {step}: {passes}; kernels {ours['kernels']}", flush=True)
    return lines, above


def compilations(members):
    """Returns what each launch of the rows compiles to on each card, and what does not compile."""
    found, failed = [], []
    for name, source, warps in launched(members):
        for card, target in TARGETS.items():
            line = {"kernel": name, "tile": source.constants_tile, "card": card, "warps": warps}
            try:
                line |= compiled(source, target, warps)
            except Exception as error:  # any: the compiler's are many
                failed.append(f"{name}, {card}: {error}")
            found.append(line)
            print(line, flush=True)
    return found, failed


def launched(members):
    """Returns kernel, source and warps of every launch of the rows, each once."""
    import torch
    from triton.compiler import ASTSource

    from keras_norm.kernels.triton import launches, tiles

    recorded = {}

    def record(kernel, programs, tile, *arguments):
        signature, constants, attributes = described(kernel, arguments)
        key = kernel.__name__, repr(signature), repr(constants), repr(attributes)
        source = ASTSource(kernel, signature, constants, attributes)
        source.constants_tile = tuple(tile)
        recorded.setdefault(key, (kernel.__name__, source, tiles.warps(tile)))

    launch, launches._launch = launches._launch, record
    try:
        for row in members:
            dtype = getattr(torch, row.dtype)
            x = torch.zeros(row.shape, dtype=dtype, requires_grad=True)
            layer = row.ours(dtype=row.dtype if row.dtype == "float32" else f"mixed_{row.dtype}")
            layer.build(row.shape)
            options = {"mask": torch.ones(row.shape[:2], dtype=torch.bool)} if row.mask else {}
            for training in (True, False):
                y = layer(x, training=training, **options)
                torch.autograd.grad(y.sum(), [x, *(v.value for v in layer.trainable_variables)])
    finally:
        launches._launch = launch
    return list(recorded.values())


def described(kernel, arguments):
    """Returns signature, constants and attributes as Triton's launcher would specialize them."""
    import torch

    types = {
        torch.float32: "*fp32",
        torch.bfloat16: "*bf16",
        torch.float16: "*fp16",
        torch.float64: "*fp64",
    }
    constants, attributes = {}, {}

    def describe(value, path, is_constant):
        if isinstance(value, tuple) and not is_constant:
            return tuple(describe(v, (*path, i), False) for i, v in enumerate(value))
        if is_constant or value is None or (isinstance(value, int) and value == 1):
            constants[path] = value
            return "constexpr"
        aligned = isinstance(value, torch.Tensor) or value % 16 == 0
        if aligned:
            attributes[path] = [["tt.divisibility", 16]]
        if isinstance(value, torch.Tensor):
            return types[value.dtype]
        return "i32" if abs(value) < 2**31 else "i64"

    signature = {
        parameter.name: describe(
            tuple(value) if isinstance(value, tuple) else value,
            (index,),
            parameter.is_constexpr,
        )
        for index, (parameter, value) in enumerate(zip(kernel.params, arguments, strict=True))
    }
    return signature, constants, attributes


def compiled(source, target, warps):
    """Returns shared memory in bytes, registers and spills, as far as the tools tell."""
    import triton
    from triton.backends.compiler import GPUTarget

    binary = triton.compile(source, target=GPUTarget(*target), options={"num_warps": warps})
    found = {"shared": binary.metadata.shared}
    if target[0] == "cuda":
        tool = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(binary.asm["cubin"])
            file.flush()
            text = subprocess.run(
                [tool, "--dump-resource-usage", file.name], capture_output=True, text=True
            ).stdout
        numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text))
        names = {"REG": "registers", "STACK": "spilled bytes"}
    else:
        text = binary.asm["amdgcn"]
        numbers = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", text))
        names = {"vgpr_count": "registers", "vgpr_spill_count": "spilled registers"}
    return found | {name: int(numbers[key]) for key, name in names.items() if key in numbers}


def picture(result, path):
    """Draws the passes over memory of a training step, forward and backward."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colors = {"ours": "#d1495b", "native": "#8fb8c8", "keras": "#c8c8c8"}
    labels = {"ours": "keras_norm", "native": "native", "keras": "Keras"}
    lines = [line for line in result["counted"] if line["step"] == "training"]
    figure, panel = plt.subplots(figsize=(8, 0.55 * len(lines) + 1.5), layout="constrained")
    for index, line in enumerate(lines):
        names = [name for name in colors if name in line]
        for place, name in enumerate(names):
            width = sum(line[name]["passes"])
            y = index + 0.27 * (place - (len(names) - 1) / 2)
            panel.barh(y, width, 0.25, color=colors[name])
            time = 1e3 * line[name]["computed ms"]
            panel.text(width, y, f" {width:.1f} ({time:.0f} µs)", va="center", fontsize=7)
    panel.set_yticks(range(len(lines)), [line["row"] for line in lines])
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlabel(
        f"passes over the input, counted\n(in brackets: time at the memory speed of {CARD})"
    )
    bars = [plt.Rectangle((0, 0), 1, 1, color=color) for color in colors.values()]
    figure.legend(bars, labels.values(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("One training step on PyTorch")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def members(tiny):
    """Returns the rows that are counted."""
    from benchmarks import rows

    sections = rows.sections()
    found = [*sections["main"][0], *sections["masks"][0]]
    found += [row for row in sections["16 bits"][0] if row.dtype == "bfloat16"]
    return [rows.tiny(row) for row in found] if tiny else found


def stage(name, tiny):
    """Runs one stage in this process; Triton interprets or compiles, once for a process."""
    if name == "count":
        lines, failed = counts(members(tiny))
        return {"counted": lines, "failed": failed}
    lines, failed = compilations(members(tiny))
    return {"compiled": lines, "failed": failed}


def in_process(name, tiny):
    """Returns the result of a stage in a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_NORM_KERNELS": "triton"}
    environment["TRITON_INTERPRET"] = "1" if name == "count" else "0"
    with tempfile.TemporaryDirectory() as folder:
        to = pathlib.Path(folder) / f"{name}.json"
        command = [sys.executable, "-m", "benchmarks.accelerator", "--stage", name, "--to", to]
        subprocess.run(command + ["--tiny"] * tiny, env=environment, check=True)
        return json.loads(to.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny inputs: to see that all runs")
    parser.add_argument("--output", type=pathlib.Path, help="folder for the JSON and the picture")
    parser.add_argument("--stage", choices=("count", "compile"), help=argparse.SUPPRESS)
    parser.add_argument("--to", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        arguments.to.write_text(json.dumps(stage(arguments.stage, arguments.tiny)))
        return
    result = {
        "date": datetime.date.today().isoformat(),
        "card of the computed time": CARD,
        "bytes a second": BYTES_A_SECOND,
    }
    failed = []
    # Both stages at the same time: each takes one core.
    with ThreadPoolExecutor() as pool:
        for found in pool.map(lambda name: in_process(name, arguments.tiny), ("count", "compile")):
            failed += found.pop("failed")
            result |= found
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        path = arguments.output / "accelerator.json"
        if path.exists():
            # What benchmarks/xla.py adds stays.
            result |= {k: v for k, v in json.loads(path.read_text()).items() if k == "xla"}
        path.write_text(json.dumps(result, indent=1) + "\n")
        picture(result, path.with_suffix(".png"))
    # Of tiny inputs, the sums and moments are a large part.
    if failed and not arguments.tiny:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
