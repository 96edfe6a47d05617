"""The site: its code runs, its links lead somewhere, and the reference has every public name.

A page's blocks of Python run one after the other, as a reader would run them. Where a line ends
in `print(...)  # text`, the text is what it must print; so is a block of text after a line such as
"prints:". A block after `<!-- backend: torch -->` runs on that backend only.
"""

import ast
import contextlib
import importlib.util
import inspect
import io
import json
import operator
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import keras
import pytest

import keras_norm
from tests.old_keras import EXPORTS_FROM_JAX_AND_TORCH

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/howto").glob("*.md")]
)
BLOCK = re.compile(r"(?:<!-- backend: (\w+) -->\n)? *```python\n(.*?)```", re.DOTALL)
EXPECTED = re.compile(r"^print\(.*\)  # (.*)$")
OUTPUT = re.compile(r"prints[^\n]*:\n\n```text\n(.*?)```", re.DOTALL)
# Python runs, commands are looked up; the others are formulas and output, MATLAB, and the site's.
KINDS = {"python", "bash", "text", "matlab", "{eval-rst}", "{toctree}", "{include}"}


def blocks(page):
    """Returns the Python code of a page for this backend."""
    found = BLOCK.findall(page.read_text())
    return [
        textwrap.dedent(code) for backend, code in found if backend in ("", keras.backend.backend())
    ]


def run(code, namespace):
    """Runs code statement by statement; compares what is printed with what the comments say.

    Returns what was printed.
    """
    lines = code.splitlines()
    output = ""
    for statement in ast.parse(code).body:
        printed = io.StringIO()
        source = compile(ast.Module([statement], []), "page", "exec")
        with contextlib.redirect_stdout(printed):
            exec(source, namespace)
        expected = EXPECTED.match(lines[statement.end_lineno - 1])
        if expected:
            assert printed.getvalue().strip() == expected[1], lines[statement.end_lineno - 1]
        output += printed.getvalue()
    return output


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.stem)
def test_code_runs(page, tmp_path, monkeypatch):
    if page.stem == "export" and not EXPORTS_FROM_JAX_AND_TORCH and not IS_TENSORFLOW:
        pytest.skip("Keras before 3.15 fixes the batch to 1, or has no such format")
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
    printed = "".join([run(code, namespace) for code in blocks(page)])
    for expected in OUTPUT.findall(page.read_text()):
        assert expected in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_no_block_is_skipped(page):
    text = page.read_text()
    fences = re.findall(r"^ *```(\S*)", text, re.MULTILINE)
    assert set(fences[::2]) <= KINDS
    assert not any(fences[1::2])
    found = BLOCK.findall(text)
    assert len(found) == fences.count("python")
    backends = [backend for backend, _ in found if backend]
    assert set(backends) <= {"tensorflow", "jax", "torch"}
    assert len(backends) == text.count("<!-- backend:")
    for _, code in found:
        # An expected output that stands inside a statement would not be compared.
        assert not re.search(r"^ +print\(.*\)  # ", textwrap.dedent(code), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_commands_name_what_there_is(page):
    text = page.read_text()
    for script in re.findall(r"python3? ([\w/]+\.py)", text):
        assert (ROOT / script).exists(), script
    sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    assert set(re.findall(r"nox -s \"?(\w+)", text)) <= set(sessions)
    extras = ",".join(re.findall(r"(?:keras-norm|\.)\[([\w,]+)\]", text))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(filter(None, extras.split(","))) <= set(project["optional-dependencies"])


def test_the_first_page_has_the_commands_of_the_readme():
    marked = r"<!-- (?:quickstart|tests) -->\n```bash\n(.*?)```"
    commands = re.findall(marked, (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(commands) == 2
    start = (ROOT / "docs/start.md").read_text()
    assert all(command in start for command in commands)


def anchors(page):
    """Returns the anchors that the headings of a page get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", page.read_text()):
        path, anchor = link
        if path.startswith(("https://", "http://", "../../actions/")):  # the last: GitHub's own
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {path}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_files_that_are_named_exist(page):
    named = r"`((?:docs|examples|benchmarks|tests|keras_norm)/[\w./]+)`"
    for path in re.findall(named, page.read_text()):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs/howto").glob("*.md")), ids=lambda p: p.stem)
def test_readme_links_to_each_guide_and_the_guide_checks_its_result(page):
    assert f"](docs/howto/{page.name})" in (ROOT / "README.md").read_text()
    assert re.search(r"^print\(.*\)  # ", page.read_text(), re.MULTILINE)


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


SECTIONS = ["Args", "Call arguments", "Input shape", "Output shape", "Returns", "Raises", "Example"]


@pytest.mark.parametrize("name", sorted(set(public_names())))
def test_docstrings_have_their_sections_in_order(name):
    value = operator.attrgetter(name.removeprefix("keras_norm."))(keras_norm)
    found = re.findall(r"^([A-Z][a-z ]+):$", inspect.getdoc(value), re.MULTILINE)
    order = [*SECTIONS, "Reference"]
    assert found == sorted(found, key=order.index)
    assert {"Raises", "Example", "Reference"} <= set(found)
    assert ("Args" in found) == bool(inspect.signature(value).parameters)
    if isinstance(value, type) and issubclass(value, keras.layers.Layer):
        assert set(SECTIONS) - {"Returns"} <= set(found)


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


def script(path):
    """Returns a script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def structure():
    """Returns the script that draws the structure of the package."""
    return script("docs/figures/structure.py")


def test_picture_of_the_structure_is_that_of_the_code():
    """If this fails, `python docs/figures/structure.py` draws the picture again."""
    drawing = structure()
    drawn = json.loads(drawing.IMPORTS.read_text())
    assert [tuple(pair) for pair in drawn] == drawing.imports()


def test_imports_have_one_direction():
    """A circle of imports has no levels. Layers know neither conversions nor other names."""
    drawing = structure()
    level = drawing.levels(drawing.imports())
    assert level["ops"] < level["layers"] < min(level["conversion"], level["matlab"])
    with pytest.raises(ValueError, match="import each other"):
        drawing.levels([("a", "b"), ("b", "a")])


def test_no_arrow_of_the_structure_passes_behind_a_box():
    drawing = structure()
    pairs = drawing.imports()
    places = drawing.layout(pairs)
    assert not any(drawing.hidden(pair, places) for pair in drawing.without_implied(pairs))


def test_pages_are_not_empty():
    assert len(PAGES) > 20
    assert sum(len(blocks(page)) for page in PAGES) > 15


def test_citation_changelog_and_recipe_have_the_version():
    version = keras_norm.__version__
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()
    assert f'version: "{version}"' in (ROOT / "conda/recipe.yaml").read_text()


def test_recipe_has_the_requirements_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = (ROOT / "conda/recipe.yaml").read_text().split("  run:\n")[1]
    needed = set(re.findall(r"^    - (.+)$", recipe, re.MULTILINE))
    declared = {re.sub(r"(?=[<>])", " ", one, count=1) for one in project["dependencies"]}
    assert needed == {f"python {project['requires-python']}", *declared}


def test_recipe_can_build_from_the_sources():
    """It has the tools of the build, on the oldest Python, and names files that are in them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    recipe = (ROOT / "conda/recipe.yaml").read_text()
    host = recipe.split("  host:\n")[1].split("  run:\n")[0]
    needed = set(re.findall(r"^    - (.+)$", host, re.MULTILINE))
    oldest = project["project"]["requires-python"].removeprefix(">=")
    assert needed == {f"python {oldest}.*", "pip", *project["build-system"]["requires"]}
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert re.search(r"license_file: (.+)", recipe)[1] in included
    assert f"license: {project['project']['license']}" in recipe
    assert f"summary: {project['project']['description']}" in recipe


def test_readme_of_the_distributions_has_absolute_links():
    text = script("hatch_build.py").absolute(
        (ROOT / "README.md").read_text(), "https://example.org/r", "v1"
    )
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all(link.startswith("https://") for link in links)
    assert "https://example.org/r/blob/v1/docs/start.md" in links
    assert "https://example.org/r/raw/v1/docs/images/numerics.png" in links
    assert "https://example.org/r/actions/workflows/ci.yml" in links
