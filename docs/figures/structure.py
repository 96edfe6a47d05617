"""Draws which module of the package imports which into `docs/images/structure.png`.

    python docs/figures/structure.py

The arrows are read from the import statements. Arrows that follow from others are left out of the
picture: if a imports b and b imports c, an arrow from a to c adds no information. All imports are
written to `docs/figures/structure.json`, which `tests/test_docs.py` compares with the code.
"""

import ast
import json
import random
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "keras_norm"
IMPORTS = Path(__file__).with_suffix(".json")
PICTURE = ROOT / "docs" / "images" / "structure.png"
# Half the size of a box, where neighbouring columns and rows are 1 apart.
HALF_WIDTH, HALF_HEIGHT = 0.42, 0.19


def module_of(parts):
    """Returns the top-level module or package that a path or a dotted name belongs to."""
    name = parts[0].removesuffix(".py")
    # Private modules and initializers are helpers that most modules import.
    return None if name.startswith("_") or name == "initializers" else name


def imports():
    """Returns the sorted pairs of modules of which the first imports the second."""
    modules = {module_of(path.relative_to(PACKAGE).parts) for path in PACKAGE.rglob("*.py")}
    pairs = set()
    for path in PACKAGE.rglob("*.py"):
        importer = module_of(path.relative_to(PACKAGE).parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            inner = [name.split(".")[1:] for name in names if name.startswith("keras_norm.")]
            pairs |= {(importer, module_of(parts)) for parts in inner}
    known = modules - {None}
    return sorted((a, b) for a, b in pairs if a != b and a in known and b in known)


def levels(pairs):
    """Returns the level of each module: above all modules that it imports.

    Raises:
        ValueError: If modules import each other in a circle.
    """
    names = {name for pair in pairs for name in pair}
    found = {}
    while len(found) < len(names):
        ready = {n for n in names - set(found) if all(b in found for a, b in pairs if a == n)}
        if not ready:
            raise ValueError(f"These modules import each other: {sorted(names - set(found))}")
        for name in ready:
            found[name] = 1 + max((found[b] for a, b in pairs if a == name), default=-1)
    return found


def without_implied(pairs):
    """Returns the pairs that do not follow from the others."""

    def reaches(start, end, skipped):
        following = [b for a, b in pairs if a == start and (a, b) != skipped]
        return any(b == end or reaches(b, end, skipped) for b in following)

    return [pair for pair in pairs if not reaches(*pair, pair)]


def arrow(pair, places):
    """Returns start and end of an arrow, from the bottom of a box to the top of another."""
    (x, y), (to_x, to_y) = places[pair[0]], places[pair[1]]
    return (x, y - HALF_HEIGHT), (to_x, to_y + HALF_HEIGHT)


def hidden(pair, places):
    """Returns the boxes that an arrow passes behind."""
    (x, y), (to_x, to_y) = arrow(pair, places)
    found = []
    for name, (column, row) in places.items():
        for edge in (row + HALF_HEIGHT, row - HALF_HEIGHT):
            if name not in pair and to_y < edge < y:
                at = x + (to_x - x) * (y - edge) / (y - to_y)
                if abs(at - column) < HALF_WIDTH + 0.05:
                    found.append(name)
    return found


def layout(pairs):
    """Returns the place of each module: the best of many random orders of each level."""
    level_of = levels(pairs)
    arrows = without_implied(pairs)
    width = max(list(level_of.values()).count(level) for level in level_of.values()) + 1

    def cost(places):
        behind = sum(bool(hidden(pair, places)) for pair in arrows)
        return 100 * behind + sum(abs(places[a][0] - places[b][0]) for a, b in arrows)

    chance = random.Random(0)
    columns = [column / 2 for column in range(2 * width - 1)]
    best, places = float("inf"), {}
    for name in sorted(level_of):
        taken = {places[other][0] for other in places if level_of[other] == level_of[name]}
        column = next(c for c in range(width) if c not in taken)
        places[name] = (float(column), level_of[name])
    for _ in range(20_000):
        name = chance.choice(sorted(places))
        column, row = chance.choice(columns), level_of[name]
        changed = {**places, name: (column, row)}
        for other, (x, y) in places.items():
            if other != name and y == row and abs(x - column) < 1:
                changed[other] = places[name]  # they swap
        spots = [spot for spot in changed.values() if spot[1] == row]
        apart = all(abs(a[0] - b[0]) >= 1 for i, a in enumerate(spots) for b in spots[i + 1 :])
        if apart and cost(changed) <= best:
            best, places = cost(changed), changed
    return places


def draw(pairs):
    """Draws the picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    places = layout(pairs)
    columns, rows = zip(*places.values(), strict=True)
    size = (1.5 * (max(columns) - min(columns) + 1), 1.0 * (max(rows) + 1))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    for pair in without_implied(pairs):
        start, end = arrow(pair, places)
        style = {"arrowstyle": "-|>", "color": "0.45", "shrinkA": 0, "shrinkB": 1, "lw": 1.1}
        axes.annotate("", end, start, arrowprops=style)
    for name, (x, y) in places.items():
        box = FancyBboxPatch(
            (x - HALF_WIDTH, y - HALF_HEIGHT),
            2 * HALF_WIDTH,
            2 * HALF_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor="#dcebfa" if name in ("layers", "ops") else "#f3f3f3",
            edgecolor="0.3",
        )
        axes.add_patch(box)
        axes.text(x, y, name, ha="center", va="center", fontsize=11)
    axes.set_xlim(min(columns) - 0.5, max(columns) + 0.5)
    axes.set_ylim(-0.3, max(rows) + 0.3)
    axes.axis("off")
    figure.savefig(PICTURE, dpi=110)


def main():
    """Writes the imports and the picture."""
    pairs = imports()
    IMPORTS.write_text(json.dumps(pairs, indent=1) + "\n")
    draw(pairs)
    print(f"Picture: {PICTURE}")


if __name__ == "__main__":
    main()
