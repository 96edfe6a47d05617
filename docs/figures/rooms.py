"""Draws the rooms of the package, and who imports whom, into `docs/images/rooms.png`.

python docs/figures/rooms.py

The arrows are read from the import statements, so that the picture cannot lie. Modules that are
used everywhere and use nothing (checks of arguments, initializers) are left out.
"""

import ast
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parent.parent.parent
# Where a room stands (column, row), and what is in it.
ROOMS = {
    "matlab": ((1.4, 4), "MATLAB's names"),
    "wolfram": ((2.5, 4), "Wolfram's names"),
    "conversion": ((3.6, 4), "Keras, PyTorch,\nFlax; folding"),
    "export": ((4.6, 4), "to other runtimes"),
    "population": ((0.6, 3.1), "and callbacks"),
    "optimizers": ((4.3, 2.15), "MultiplierOptimizer"),
    "layers": ((2.1, 2.15), "configuration,\nvariables, checks"),
    "multipliers": ((3.7, 1), "on variables"),
    "ops": ((2.1, 1), "moments, merge,\nstandardize"),
    "engines": ((0.6, 1), "replicas and steps\nof each backend"),
    "kernels": ((2.1, 0), "fast versions,\none per backend"),
}
HELPERS = {"__init__", "_validation", "_name_value", "initializers", "modes", "shapes"}
# A callback is the function of population statistics, called by `fit`.
SAME = {"callbacks": "population"}
WIDTH, HEIGHT = 0.84, 0.56


def arrows():
    """Returns the pairs of rooms of which the first imports the second."""
    found = set()
    for path in (ROOT / "keras_norm").rglob("*.py"):
        room = path.relative_to(ROOT / "keras_norm").parts[0].removesuffix(".py")
        room = SAME.get(room, room)
        if room in HELPERS:
            continue
        if room not in ROOMS:
            raise SystemExit(f"keras_norm.{room} has no place in the picture: give it one in ROOMS")
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{name.name}" for name in node.names]
            elif isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            for name in names:
                package, *inner = name.split(".")
                other = SAME.get(inner[0], inner[0]) if package == "keras_norm" else room
                if other in ROOMS and other != room:
                    found.add((room, other))
    return found


def main():
    """Draws the picture."""
    found = arrows()
    used = {room for pair in found for room in pair}
    figure, axes = plt.subplots(figsize=(9, 6.4), layout="constrained")
    for first, second in sorted(found):
        (x, y), (to_x, to_y) = ROOMS[first][0], ROOMS[second][0]
        level = y == to_y
        sign = 1 if to_x > x else -1
        start = (x + sign * WIDTH / 2, y) if level else (x, y - HEIGHT / 2)
        end = (to_x - sign * WIDTH / 2, to_y) if level else (to_x, to_y + HEIGHT / 2)
        style = {"arrowstyle": "-|>", "color": "0.45", "shrinkA": 0, "shrinkB": 1, "lw": 1.1}
        axes.annotate("", end, start, arrowprops=style, zorder=1)
    for room in sorted(used):
        (x, y), text = ROOMS[room]
        axes.add_patch(
            FancyBboxPatch(
                (x - WIDTH / 2, y - HEIGHT / 2),
                WIDTH,
                HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor="#dcebfa" if room in ("layers", "ops") else "#f3f3f3",
                edgecolor="0.3",
                zorder=2,
            )
        )
        axes.text(x, y + 0.14, room, ha="center", va="center", weight="bold", fontsize=11, zorder=3)
        axes.text(x, y - 0.09, text, ha="center", va="center", fontsize=8.5, zorder=3)
    axes.set_title("The rooms of keras_norm: an arrow means 'imports'", fontsize=12)
    rows = [ROOMS[room][0][1] for room in used]
    axes.set_xlim(0.1, 4.8)
    axes.set_ylim(min(rows) - 0.4, max(rows) + 0.4)
    axes.axis("off")
    figure.savefig(ROOT / "docs" / "images" / "rooms.png", dpi=110)


if __name__ == "__main__":
    main()
