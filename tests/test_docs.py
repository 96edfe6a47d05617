"""The site: its code runs, its links lead somewhere, and the reference has every public name.

A page's blocks of Python run one after the other, as a reader would run them. Where a line ends
in `print(...)  # text`, the text is what it must print. A block after `<!-- backend: torch -->`
runs on that backend only.
"""

import ast
import contextlib
import inspect
import io
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import pytest

import keras_norm

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"(?:<!-- backend: (\w+) -->\n)? *```python\n(.*?)```", re.DOTALL)
EXPECTED = re.compile(r"^print\(.*\)  # (.*)$")


def blocks(page):
    """Returns the Python code of a page for this backend."""
    found = BLOCK.findall(page.read_text())
    return [
        textwrap.dedent(code) for backend, code in found if backend in ("", keras.backend.backend())
    ]


def run(code, namespace):
    """Runs code statement by statement; compares what is printed with what the comments say."""
    lines = code.splitlines()
    for statement in ast.parse(code).body:
        printed = io.StringIO()
        source = compile(ast.Module([statement], []), "page", "exec")
        with contextlib.redirect_stdout(printed):
            exec(source, namespace)
        expected = EXPECTED.match(lines[statement.end_lineno - 1])
        if expected:
            assert printed.getvalue().strip() == expected[1], lines[statement.end_lineno - 1]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.stem)
def test_code_runs(page, tmp_path, monkeypatch):
    if any("tf.distribute" in code for code in blocks(page)):
        # TensorFlow's collectives do not survive a second strategy in one process.
        code = f"import pathlib, tests.test_docs as t; t.run_page(pathlib.Path({str(page)!r}))"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        return
    monkeypatch.chdir(tmp_path)
    run_page(page)


def run_page(page):
    """Runs the code of a page for this backend."""
    namespace = {"__name__": "page"}
    for code in blocks(page):
        run(code, namespace)


def anchors(page):
    """Returns the anchors that the headings of a page get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", page.read_text()):
        path, anchor = link
        if path.startswith(("https://", "http://")):
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {path}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_files_that_are_named_exist(page):
    named = r"`((?:docs|examples|benchmarks|tests|keras_norm)/[\w./]+)`"
    for path in re.findall(named, page.read_text()):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def public_names():
    """Returns all public names with their modules; those at the top have one name only."""
    for name in keras_norm.__all__:
        value = getattr(keras_norm, name)
        if not inspect.ismodule(value):
            yield f"keras_norm.{name}"
            continue
        for inner in value.__all__:
            top = getattr(keras_norm, inner, None) is getattr(value, inner)
            yield f"keras_norm.{inner}" if top else f"keras_norm.{name}.{inner}"


def test_reference_has_every_public_name():
    documented = set(
        re.findall(r"auto(?:class|function):: ([\w.]+)", (ROOT / "docs/reference.md").read_text())
    )
    assert not set(public_names()) - documented


@pytest.mark.parametrize(
    "image", sorted((ROOT / "docs/images").glob("*.png")), ids=lambda p: p.name
)
def test_pictures_are_written_by_a_script(image):
    scripts = [*ROOT.glob("docs/figures/*.py"), *ROOT.glob("examples/*.py")]
    scripts += ROOT.glob("benchmarks/*.py")
    family = image.stem.split("-")[0]  # sets-batch.png is one of sets-{name}.png
    assert any(family in script.read_text() for script in scripts)


def test_pages_are_not_empty():
    assert len(PAGES) > 20
    assert sum(len(blocks(page)) for page in PAGES) > 15


def test_citation_has_the_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {keras_norm.__version__}" in lines
