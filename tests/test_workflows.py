"""The workflows on GitHub call sessions that noxfile.py has, on all backends and systems."""

import importlib.util
import itertools
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
BACKENDS = {"tensorflow", "jax", "torch"}
# The distributions do not contain the workflows.
pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="needs a clone of the repository")


def recorder(sessions):
    """Returns a stand-in for nox, which the tests' environments lack, that records sessions."""

    def session(function=None, *, python=None, **options):
        if function is None:
            return lambda function: session(function, python=python)
        names = [f"{function.__name__}-{version}" for version in python or ()]
        parameters = getattr(function, "parameters", {})
        for name in names or [function.__name__]:
            for values in itertools.product(*parameters.values()):
                pairs = zip(parameters, values, strict=True)
                sessions.add((name, frozenset(f"{key}={value!r}" for key, value in pairs)))
        return function

    def parametrize(name, values):
        def decorate(function):
            function.parameters = {name: values, **getattr(function, "parameters", {})}
            return function

        return decorate

    nox = types.ModuleType("nox")
    nox.session, nox.parametrize = session, parametrize
    nox.needs_version, nox.options = "", types.SimpleNamespace()
    return nox


@pytest.fixture
def sessions(monkeypatch):
    """Returns the sessions of noxfile.py, each with its name and its set of parameters."""
    found = set()
    monkeypatch.setitem(sys.modules, "nox", recorder(found))
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return found


def jobs(workflow):
    """Returns the text of each job of a workflow by its name."""
    _, *parts = re.split(r"^  (\w+):\n", workflow.read_text().split("\njobs:\n")[1], flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def matrix(job):
    """Returns the values of each key of a job's matrix."""
    rows = re.findall(r"^        (\w+): \[(.+)\]$", job, re.MULTILINE)
    return {key: [value.strip(' "') for value in values.split(",")] for key, values in rows}


def calls(job):
    """Returns the sessions that a job calls, for all combinations of its matrix."""
    values = matrix(job)
    found = set()
    for combination in itertools.product(*values.values()):
        text = job
        for key, value in zip(values, combination, strict=True):
            text = text.replace("${{ matrix." + key + " }}", value)
        for quoted, plain in re.findall(r'run: nox .*?-s (?:"(.+?)"|([^-\n]+))', text):
            for call in [quoted] if quoted else plain.split():
                name, _, parameters = call.rstrip(")").partition("(")
                found.add((name, frozenset(filter(None, parameters.split(", ")))))
    return found


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_sessions_exist(workflow, sessions):
    """A name without parameters runs all sessions of that name."""
    called = set().union(*map(calls, jobs(workflow).values()))
    assert called
    for name, parameters in called:
        known = {p for n, p in sessions if n == name}
        assert known, f"{workflow.name} calls {name}"
        assert not parameters or parameters in known, f"{workflow.name} calls {name}{parameters}"


def test_ci_runs_all_tests(sessions):
    """On every version of Keras and of Python; `tests` runs on the oldest Python."""
    called = set().union(*map(calls, jobs(ROOT / ".github/workflows/ci.yml").values()))
    assert {s for s in sessions if s[0] == "tests"} <= called
    pythons = {s for s in sessions if s[0].startswith("pythons-")}
    assert pythons - called == {s for s in pythons if s[0] == "pythons-3.11"}


def test_ci_runs_on_linux_macos_and_windows():
    ci = jobs(ROOT / ".github/workflows/ci.yml")
    for name in ("tests", "pythons", "systems"):
        assert set(matrix(ci[name])["backend"]) == BACKENDS
    assert "runs-on: ubuntu-latest" in ci["tests"]
    assert "runs-on: ${{ matrix.os }}" in ci["systems"]
    assert matrix(ci["systems"])["os"] == ["macos-latest", "windows-latest"]
