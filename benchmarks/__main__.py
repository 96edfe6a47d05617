"""Measures the backend in KERAS_BACKEND.

    KERAS_BACKEND=torch python -m benchmarks --output benchmarks/results
    KERAS_BACKEND=torch python -m benchmarks --compare benchmarks/results/torch.json
    KERAS_BACKEND=torch python -m benchmarks --tiny

All runs of a row are interleaved in one process: keras_norm, Keras, an empty layer, the backend's
own operation, copies of the input. Each round has a new random order, and each row a process of
its own. Times are medians. The floor is the time to copy as many bytes as the step must move.

On Linux, freed memory stays mapped (`KEEPS_MEMORY`). By default, glibc gives freed arrays back to
the system. Mapping new memory takes longer than copying it, and which layer has to do it is up to
chance: the same layer took 9 or 27 ms. Variables that are set already have precedence.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import pathlib
import platform
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from benchmarks import report, rows
from benchmarks.measure import lines_of, of_backend

# Read by glibc when a process starts: allocate no array in a mapping of its own, give nothing back,
# and let all threads use the same memory.
KEEPS_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_ARENA_MAX": "1",
}


def run(mode, tiny, rounds, threads):
    """Returns the lines of all rows."""
    sections = {name: range(len(members)) for name, (members, _) in rows.sections().items()}
    if not of_backend().COMPILES_LAYERS:
        del sections["compiled"]
    print(report.header(), flush=True)
    lines = []
    os.environ.update(KEEPS_MEMORY | os.environ)
    with ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=of_backend().use_threads,
        initargs=[threads],
        max_tasks_per_child=1,
    ) as pool:
        for section, indices in (sections | {"model": [0]}).items():
            for index in indices:
                place = section, index, mode, tiny, rounds
                found = lines_of(*place) if tiny else pool.submit(lines_of, *place).result()
                for line in found:
                    lines.append({"section": section, **line})
                    print(report.line(lines[-1]), flush=True)
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny inputs: to see that all runs")
    parser.add_argument("--rounds", type=int, default=31, help="runs that a median is taken of")
    parser.add_argument("--threads", type=int, help="PyTorch only: how many, if not one a core")
    parser.add_argument("--output", type=pathlib.Path, help="folder for JSON and pictures")
    parser.add_argument("--compare", type=pathlib.Path, help="earlier JSON: what got slower?")
    arguments = parser.parse_args()
    name, backend = keras.backend.backend(), of_backend()
    threads = backend.use_threads(arguments.threads)
    rounds = 2 if arguments.tiny else arguments.rounds
    for mode in backend.MODES:
        title = name if len(backend.MODES) == 1 else f"{name}-{mode}"
        result = {
            "title": title,
            "mode": mode,
            "date": datetime.date.today().isoformat(),
            "versions": f"keras {keras.__version__}, {backend.VERSION}",
            "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores{threads}",
            "rounds": rounds,
            "lines": run(mode, arguments.tiny, rounds, arguments.threads),
        }
        print(report.summary(result), flush=True)
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            path = arguments.output / f"{title}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
            report.pictures(result, path.with_suffix(".png"))
        if arguments.compare:
            earlier = arguments.compare
            earlier = earlier / f"{title}.json" if earlier.is_dir() else earlier
            print(report.slower(result, json.loads(earlier.read_text())))


if __name__ == "__main__":
    main()
