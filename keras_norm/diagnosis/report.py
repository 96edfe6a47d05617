"""The report of a diagnosis: findings as a table, and a picture of all layers."""

import html
import re
import textwrap
from typing import Any, NamedTuple

_WIDTH = 80  # of a terminal


class Examined(NamedTuple):
    """A normalization layer and its diagnosis.

    Attributes:
        layer: The layer.
        label: Its name, or its path where several layers have the name.
        measures: `Measure` by name.
        findings: List of `Finding`.
    """

    layer: Any
    label: str
    measures: dict
    findings: list


class Report:
    """The findings of a diagnosis, shown as a table.

    Attributes:
        findings: List of `Finding`, empty for a healthy model.
    """

    _HEADER = ("layer", "kind", "channels", "value")

    def __init__(self, examined):
        self.findings = [finding for one in examined for finding in one.findings]
        self._examined = examined

    def __str__(self):
        if not self.findings:
            return f"No findings in {self._counted}."
        rows = [self._HEADER, *(cells for cells, _ in self._rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join(
            [*table, "", *(wrapped(kind, text, _WIDTH) for kind, text in self.remedies)]
        )

    def _repr_html_(self):
        if not self.findings:
            return f"<p>No findings in {self._counted}.</p>"
        rows = [_row("th", (*self._HEADER, "remedy"))]
        rows += [_row("td", (*cells, remedy)) for cells, remedy in self._rows]
        return f"<table>{''.join(rows)}</table>"

    def plot(self, path):
        """Draws all normalization layers of the model, in one picture.

        Each row is a layer, each point a channel. Points in the green area are healthy.

        Args:
            path: Name of the file, whose extension selects the format (".png"). Needs Matplotlib.
        """
        # Imported here, as nothing else needs Matplotlib.
        from keras_norm.diagnosis import picture

        picture.figure(self._examined, self.remedies).savefig(path, dpi=130)

    def without(self, keys):
        """Returns a report of the findings whose keys are not in a set."""
        return Report([
            one._replace(findings=[f for f in one.findings if f.key not in keys])
            for one in self._examined
        ])  # fmt: skip

    @property
    def remedies(self):
        """Pairs of a kind and a remedy, each pair once."""
        return list(dict.fromkeys((finding.kind, finding.remedy) for finding in self.findings))

    @property
    def _rows(self):
        """Pairs of the cells of a finding, as in the header, and its remedy."""
        return [
            (
                (
                    one.label,
                    finding.kind,
                    f"{len(finding.channels)} of {finding.num_channels}",
                    f"{finding.value:.3g}",
                ),
                finding.remedy,
            )
            for one in self._examined
            for finding in one.findings
        ]

    @property
    def _counted(self):
        count = len(self._examined)
        return f"{count} normalization layer{'s' if count != 1 else ''}"


def wrapped(kind, text, width):
    """Returns a remedy in lines that can be pasted as code."""
    # Python takes a line break in an argument list, and none in an assignment.
    text = f"{kind}: {text}".replace(" = ", "\0=\0")
    lines = textwrap.fill(text, width, subsequent_indent="    ", break_on_hyphens=False)
    return lines.replace("\0", " ")


def _row(tag, texts):
    cells = (f'<{tag} style="text-align: left">{_marked_up(text)}</{tag}>' for text in texts)
    return f"<tr>{''.join(cells)}</tr>"


def _marked_up(text):
    """Returns text as HTML, with text in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
