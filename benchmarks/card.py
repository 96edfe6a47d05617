"""Measures one backend on an accelerator: speed and accuracy side by side.

    KERAS_BACKEND=torch python -m benchmarks.card --output benchmarks/results

Measures for each row: the time of a step, the fraction of the card's copy speed (1: the step only
moves the bytes that it must move), and the largest error of an output, relative to float64, at
means of 0 and 100,000 standard deviations. `nox -s gpu` runs this on every backend that sees a
card.
"""

import argparse
import datetime
import importlib
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from benchmarks import accuracy, rows
from benchmarks.measure import measure

MEANS = (0.0, 1e5)


def line_of(backend, mode, row, step, rounds):
    """Returns times, shares of the copy speed and errors, by contender."""
    measured = measure(backend, row, mode, step, rounds)
    errors = {}
    if step == "training" and row.dtype == "float32" and not row.mask and row.native:
        errors = {mean: accuracy.errors(backend, mode, row, mean) for mean in MEANS}
    line = {"row": row.name, "step": step}
    for name in ("ours", "keras", "native"):
        if name in measured:
            line[name] = {
                "ms": measured[name],
                "share of copy speed": round(measured["floor"] / measured[name], 3),
                **{f"error at {m:g}": f"{e[name]:.1e}" for m, e in errors.items() if name in e},
            }
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny inputs: to see that all runs")
    parser.add_argument("--output", type=pathlib.Path, help="folder for the JSON")
    arguments = parser.parse_args()
    name = keras.backend.backend()
    backend = importlib.import_module(f"benchmarks.on_{name}")
    sections = rows.sections()
    members = [row for section in ("main", "masks", "16 bits") for row in sections[section][0]]
    for mode in backend.MODES:
        lines = []
        for row in map(rows.tiny, members) if arguments.tiny else members:
            for step in row.steps:
                lines.append(line_of(backend, mode, row, step, 2 if arguments.tiny else 31))
                print(lines[-1], flush=True)
        result = {
            "card": backend.device_name(),
            "date": datetime.date.today().isoformat(),
            "versions": f"keras {keras.__version__}, {backend.VERSION}",
            "lines": lines,
        }
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            path = arguments.output / f"card-{name}-{mode}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
