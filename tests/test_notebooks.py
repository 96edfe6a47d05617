"""The notebooks run at a small size, cell after cell, without Jupyter."""

import json
from pathlib import Path

import keras
import pytest

FOLDER = Path(__file__).parent.parent / "examples/notebooks"


def cells(notebook):
    """Returns the code cells of a notebook, without lines that only Jupyter understands."""
    found = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
    lines = [[line for line in cell["source"] if not line.startswith("%")] for cell in found]
    return ["".join(cell) for cell in lines]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend is enough: the default in Colab"
)
@pytest.mark.parametrize("notebook", sorted(FOLDER.glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_runs(notebook, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTEBOOK_EPOCHS", "1")
    namespace = {"__name__": "notebook"}
    for number, code in enumerate(cells(notebook)):
        exec(compile(code, f"{notebook.name}, cell {number}", "exec"), namespace)


@pytest.mark.parametrize("notebook", sorted(FOLDER.glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_has_no_output(notebook):
    found = json.loads(notebook.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in found)


def test_there_are_notebooks():
    names = {"quickstart", "masks", "multipliers", "diagnosis"}
    assert {p.stem for p in FOLDER.glob("*.ipynb")} >= names
