"""Settings of the site: `nox -s docs` builds it."""

import inspect
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent

project = "keras_norm"
author = "The keras_norm developers"
copyright = "the keras_norm developers, under the Apache License 2.0"
source = (ROOT / "keras_norm" / "__init__.py").read_text()
version = release = re.search(r'__version__ = "(.+)"', source).group(1)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_heading_anchors = 3
default_role = "code"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_title = f"keras_norm {version}"
html_theme_options = {"navigation_with_keys": True}
exclude_patterns = ["figures", "shared"]
nitpicky = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [
    ("Call arguments", "params_style"),
    "Input shape",
    "Output shape",
    "Reference",
]
copybutton_prompt_text = ">>> |\\.\\.\\. |\\$ "
copybutton_prompt_is_regexp = True


def as_napoleon_reads(app, what, name, obj, options, lines):
    """Gives Keras's docstrings the blank lines and indents that reStructuredText wants.

    An indented block is a formula, kept as it is written. An example under `Example:` is indented.
    Code between fences is Markdown's.
    """
    result = []
    in_example = in_sections = in_fence = False
    for line in lines:
        if line.startswith("```"):
            in_fence = not in_fence
            result += [f".. code-block:: {line[3:]}", ""] if in_fence else [""]
            continue
        if in_fence:
            result.append(f"    {line}")
            continue
        indented = line.startswith("    ")
        before = result[-1] if result else ""
        if re.fullmatch(r"[A-Z][a-z ]+:", line):
            in_example, in_sections = line == "Example:", True
        elif indented and not in_sections and not before:
            result += ["::", ""]
        if in_example and line and line != "Example:":
            line = f"    {line}"
        result.append(line)
    lines[:] = result


def own_signature(app, what, name, obj, options, signature, return_annotation):
    """Gives a class the signature of its own constructor: Keras wraps it in `(*args, **kwargs)`."""
    if what != "class":
        return None
    parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
    return str(inspect.Signature(parameters)), None


def setup(app):
    """Puts `as_napoleon_reads` in front of napoleon."""
    app.connect("autodoc-process-signature", own_signature)
    app.connect("autodoc-process-docstring", as_napoleon_reads, priority=100)
