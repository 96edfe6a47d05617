"""A picture of all normalization layers of a model.

Each row is a layer, each column a question, and each point a channel. Healthy ranges are green.
"""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from keras_norm.diagnosis.report import wrapped

# Colors of the healthy range, and of healthy points, healthy texts and faults.
_HEALTHY, _OK, _FINE, _BAD = "#d9efd9", "#3a6ea5", "#2e7d32", "#c62828"

# Of the remedies, in Matplotlib's font at 9 points.
_LETTERS_PER_INCH = 12


class _Column(NamedTuple):
    """A question, and the axis that answers it."""

    title: str
    label: str
    scale: str
    low: float
    high: float


# Points outside of an axis are drawn at its edge.
COLUMNS = {
    "moving_mean": _Column(
        "Does the moving mean\nfit the data?", "difference (deviations)", "linear", -1.5, 1.5
    ),
    "moving_variance": _Column(
        "Does the moving\nvariance fit?", "times the variance", "log", 0.1, 10
    ),
    "scatter": _Column("Do the batches\nagree?", "scatter of means\n(deviations)", "linear", 0, 1),
    "mean": _Column("Is the mean near\nenough to 0?", "distance (deviations)", "log", 1e-2, 1e6),
    "variance": _Column("Does the channel\nvary?", "variance / epsilon", "log", 1e-4, 1e8),
    "gamma": _Column("Is the channel\nalive?", "|gamma|", "log", 1e-5, 1e2),
}


def figure(examined, remedies):
    """Returns the picture of the layers as a figure that Matplotlib does not manage.

    Args:
        examined: List of `Examined`.
        remedies: Pairs of a kind and a remedy.
    """
    shown = [name for name in COLUMNS if any(name in one.measures for one in examined)]
    width = max(7.0, 4.6 + 1.9 * len(shown))
    notes = [wrapped(kind, text, int(_LETTERS_PER_INCH * width)) for kind, text in remedies]
    lines = sum(note.count("\n") + 1 for note in notes)
    height = 2.1 + 0.42 * len(examined) + 0.2 * lines
    drawing = Figure(figsize=(width, height), layout="constrained")
    panels = drawing.subplots(1, max(len(shown), 1), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=False):
        _draw_column(axes, name, examined)
    if not shown:
        panels[0].set_xticks([])
    _name_rows(panels[0], examined)
    _say_findings(panels[-1], examined)
    drawing.suptitle(_title(examined), fontsize=11, x=0.01, ha="left")
    if notes:
        drawing.supxlabel("\n".join(notes), fontsize=9, x=0.01, ha="left")
    return drawing


def _title(examined):
    faults = sum(bool(one.findings) for one in examined)
    verdict = (
        f"{faults} of {len(examined)} normalization layers need attention"
        if faults
        else "All normalization layers are healthy"
    )
    return f"{verdict}\nRow: a layer. Point: a channel. Green: healthy. Triangle: further out."


def _draw_column(axes, name, examined):
    column = COLUMNS[name]
    axes.set_xscale(column.scale)
    axes.set_xlim(column.low, column.high)
    axes.set_title(column.title, fontsize=10)
    axes.set_xlabel(column.label, fontsize=9)
    axes.tick_params(labelsize=8)
    # Triangles at the edge are in front of the labels.
    axes.tick_params(axis="y", length=0, pad=9)
    for row, one in enumerate(examined):
        if name in one.measures:
            _draw_row(axes, row, one, one.measures[name], column)


def _draw_row(axes, row, one, measure, column):
    low, high = max(measure.low, column.low), min(measure.high, column.high)
    axes.add_patch(Rectangle((low, row - 0.4), high - low, 0.8, color=_HEALTHY, zorder=0))
    found = {c for f in one.findings if f.kind == measure.kind for c in f.channels}
    channels = np.arange(len(measure.values))
    bad = measure.outside & np.isin(channels, list(found))
    values = measure.values
    x = np.clip(values, column.low, column.high)
    # Spread over the row, in the order of the channels, so that points do not hide each other.
    y = row + 0.6 * ((channels + 0.5) / len(channels) - 0.5)
    size = 14 if len(channels) <= 64 else 5
    for chosen, color, marker in (
        (~bad, _OK, "o"),
        (bad & (values == x), _BAD, "o"),
        (bad & (values < x), _BAD, "<"),
        (bad & (values > x), _BAD, ">"),
    ):
        style = {"s": size * (1 if marker == "o" else 3), "color": color, "marker": marker}
        axes.scatter(x[chosen], y[chosen], linewidths=0, clip_on=False, zorder=3, **style)


def _name_rows(axes, examined):
    axes.set_ylim(len(examined) - 0.5, -0.5)
    labels = [f"{one.label}\n{type(one.layer).__name__}" for one in examined]
    axes.set_yticks(range(len(examined)), labels, fontsize=8)
    for label, one in zip(axes.get_yticklabels(), examined, strict=True):
        label.set_color(_BAD if one.findings else "black")


def _say_findings(axes, examined):
    for row, one in enumerate(examined):
        found = [f"{f.kind}: {len(f.channels)} of {f.num_channels}" for f in one.findings]
        axes.annotate(
            "\n".join(found or ["healthy"]), (1.06, row), xycoords=("axes fraction", "data"),
            va="center", fontsize=8, color=_BAD if found else _FINE, annotation_clip=False,
        )  # fmt: skip
