"""Build hook that makes the links of the distributions' README absolute.

A package index does not resolve relative links. The repository's address comes from the variables
that GitHub sets in workflows; without them, a build keeps the README as it is.
"""

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"\]\((?!https?://|#)([^)\s]+)\)")


def absolute(text, repository, ref):
    """Returns Markdown with absolute links; pictures link to the files' raw content."""

    def replace(match):
        path = match[1]
        if path.startswith("../../"):  # pages of the repository on GitHub, such as its workflows
            return f"]({repository}/{path.removeprefix('../../')})"
        kind = "raw" if path.endswith(".png") else "blob"
        return f"]({repository}/{kind}/{ref}/{path})"

    return LINK.sub(replace, text)


class Readme(MetadataHookInterface):
    def update(self, metadata):
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if "GITHUB_REPOSITORY" in os.environ:
            server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
            repository = f"{server}/{os.environ['GITHUB_REPOSITORY']}"
            text = absolute(text, repository, os.environ.get("GITHUB_REF_NAME", "HEAD"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
