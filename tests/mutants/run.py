"""Breaks the package, one small mistake at a time, and lists those that the tests do not notice.

    KERAS_BACKEND=jax python tests/mutants/run.py         all mistakes that this backend can show
    KERAS_BACKEND=jax python tests/mutants/run.py WORD    those with the word in their name or file
    KERAS_BACKEND=jax python tests/mutants/run.py -n 2    two at a time

The TOML files beside this one list the mistakes. The name of an entry says what goes wrong. The
entry has the file, a text that the file holds exactly once, the text that replaces it, the backend
that shows the mistake ("triton" is PyTorch with the kernels for accelerators), and the tests of
which one must fail. Each mistake is made in a copy of the package and its tests. A server imports
Keras once, and forks for each mistake.

The exit status is 0 if the tests pass without a mistake and notice at least 95% of the mistakes,
and no entry is stale.
"""

import argparse
import functools
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
COPIED = ("keras_norm", "tests", "pyproject.toml")
LEAST_CAUGHT = 0.95
# A mistake may be a loop without an end.
MOST_SECONDS = 600
OUTPUT = "output.txt"


class Mutant(NamedTuple):
    """One mistake."""

    name: str
    file: str
    old: str
    new: str
    backend: str
    tests: list

    @property
    def is_stale(self):
        """Whether the file lacks a single copy of the text, or the other text is not Python."""
        path = ROOT / self.file
        if not path.exists() or path.read_text().count(self.old) != 1:
            return True
        try:
            compile(path.read_text().replace(self.old, self.new), path, "exec")
        except SyntaxError:
            return True
        return False

    def make(self, root):
        """Makes the mistake in a copy of the tree."""
        path = root / self.file
        path.write_text(path.read_text().replace(self.old, self.new))


def table():
    """Returns all mistakes."""
    files = sorted(pathlib.Path(__file__).parent.glob("*.toml"))
    entries = [entry for file in files for entry in tomllib.loads(file.read_text()).items()]
    return [Mutant(name, **fields) for name, fields in entries]


def own_backend():
    """Returns the name that the table has for the backend that this process is to test."""
    is_triton = os.environ.get("KERAS_NORM_KERNELS") == "triton"
    return "triton" if is_triton else os.environ["KERAS_BACKEND"]


def run_pytest(folder, tests):
    """Runs tests in a folder, and ends this process with pytest's status."""
    import pytest

    os.chdir(folder)
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = folder
    # PyTorch would reuse the programs that it compiled without the mistake.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(folder, "inductor")
    with open(OUTPUT, "w") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def passes(server, tests, mutant=None):
    """Runs tests in a copy of the tree, and returns whether they pass and what pytest prints."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in COPIED:
            if (ROOT / name).is_file():
                shutil.copy(ROOT / name, root / name)
            else:
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, root / name, ignore=ignored)
        if mutant is not None:
            mutant.make(root)
        process = server.Process(target=run_pytest, args=(folder, tests))
        process.start()
        process.join(MOST_SECONDS)
        process.kill()
        process.join()
        return process.exitcode == 0, (root / OUTPUT).read_text()


def report(server, mutant):
    """Runs the tests of a mistake, prints whether they notice it, and returns that."""
    start = time.monotonic()
    passed, output = passes(server, mutant.tests, mutant)
    seconds = f"{time.monotonic() - start:.0f} s"
    if passed:
        print(f"SURVIVES  {mutant.name} ({mutant.file}, {seconds})", flush=True)
    else:
        lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        print(f"caught    {mutant.name} by {lines or 'no end'} ({seconds})", flush=True)
    return not passed


def main():
    """Runs the mistakes that are asked for."""
    parser = argparse.ArgumentParser(prog="python tests/mutants/run.py")
    parser.add_argument("words", nargs="*", help="parts of names or files; all without")
    parser.add_argument("-n", type=int, default=1, help="how many to run at a time")
    arguments = parser.parse_args()
    chosen = [
        mutant
        for mutant in table()
        if not arguments.words
        or any(word in mutant.name or word in mutant.file for word in arguments.words)
    ]
    stale = [mutant for mutant in chosen if mutant.is_stale]
    for mutant in stale:
        print(
            f"STALE     {mutant.name}: {mutant.file} must hold `old` once, and be Python with `new`"
        )
    chosen = [m for m in chosen if m.backend == own_backend() and m not in stale]
    if not chosen:
        sys.exit("There is nothing to run." if not stale else 1)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["keras", "pytest"])
    passed, output = passes(server, sorted({name for mutant in chosen for name in mutant.tests}))
    if not passed:
        sys.exit(f"{output}\nThe tests fail without a mistake.")
    with ThreadPoolExecutor(arguments.n) as pool:
        caught = sum(pool.map(functools.partial(report, server), chosen))
    print(f"{caught} of {len(chosen)} mistakes caught.")
    sys.exit(bool(stale) or caught < LEAST_CAUGHT * len(chosen))


if __name__ == "__main__":
    main()
