"""The results as a table, a summary, a picture and a comparison."""

import statistics

COLUMNS = (
    *("ours", "keras", "native", "empty", "floor"),
    *("ours/best", "keras/ours", "ours/floor", "ours/affine", "masked/unmasked"),
    *("kept", "temporaries"),
)

# The means that the summary gives, by section.
MEANS = {"main": ("keras/ours", "ours/floor"), "RMS": ("keras/ours", "ours/best")}

# Slower by more than this, relative to the floor, is more than noise.
TOLERANCE = 1.25


def header():
    return f"{'':44}" + "".join(f"{column:>16}" for column in COLUMNS)


def line(values):
    """Returns one line of the table; times are in ms, memory kept for backward in inputs."""
    cells = (f"{values[c]:16.3f}" if c in values else f"{'-':>16}" for c in COLUMNS)
    return f"{values['row'] + ', ' + values['step']:44}" + "".join(cells)


def geometric_mean(lines, column, step, section):
    """Returns the geometric mean of a column over the rows of a section and a step."""
    return statistics.geometric_mean(
        values[column]
        for values in lines
        if values["section"] == section and values["step"] == step
    )


def summary(result):
    lines = result["lines"]
    text = [f"{result['title']}: {result['versions']}, {result['machine']}, {result['date']}"]
    for section, columns in MEANS.items():
        for step in ("training", "inference"):
            means = (f"{c} {geometric_mean(lines, c, step, section):.2f}" for c in columns)
            text.append(f"  geometric means of {step}, {section}: {', '.join(means)}")
    text.append(f"  ours/best above 1.05: {_names(v for v in lines if v['ours/best'] > 1.05)}")
    return "\n".join(text)


def slower(result, earlier):
    """Returns which rows got slower, as multiples of the copy floor of their own run."""
    before = {(v["row"], v["step"]): v for v in earlier["lines"]}
    flagged = []
    for values in result["lines"]:
        old = before.get((values["row"], values["step"]))
        # A ratio from one run can be compared with another run's: both machines may differ.
        column = "ours/floor" if values["section"] == "main" else "ours/best"
        if old and values[column] > TOLERANCE * old[column]:
            change = f"{column} {old[column]:.2f} -> {values[column]:.2f}"
            flagged.append(f"  {values['row']}, {values['step']}: {change}")
    found = "\n".join(flagged) or "  nothing"
    return f"slower than on {earlier['date']} ({earlier['versions']}):\n{found}"


# What a second picture shows, besides the main rows.
MORE = (
    *("RMS", "instance and renorm", "masks", "long axes", "deep", "frozen", "no parameters"),
    *("16 bits", "compiled"),
)


def pictures(result, path):
    """Draws the main rows, and in a second picture the others, named `...-more`."""
    for sections, place in ((("main",), path), (MORE, path.with_stem(f"{path.stem}-more"))):
        lines = [values for values in result["lines"] if values["section"] in sections]
        panels = {
            "one training step": [v for v in lines if v["step"] != "inference"],
            "inference": [v for v in lines if v["step"] == "inference"],
        }
        _draw(result, panels, place)


def _draw(result, lines_by_panel, path):
    """Draws bars in multiples of the time to copy the bytes; shorter is better."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patheffects import withStroke

    colors = {"ours": "#d1495b", "native": "#8fb8c8", "keras": "#c8c8c8"}
    labels = {"ours": "keras_norm", "native": "native", "keras": "Keras"}
    outline = [withStroke(linewidth=2, foreground="white")]  # numbers that the line crosses
    height = 1.7 + 0.46 * max(map(len, lines_by_panel.values()))
    figure, panels = plt.subplots(1, 2, figsize=(12, height), layout="constrained")
    for panel, (title, lines) in zip(panels, lines_by_panel.items(), strict=True):
        for index, values in enumerate(lines):
            names = [name for name in colors if name in values]
            for place, name in enumerate(names):
                width = values[name] / values["floor"]
                y = index + 0.27 * (place - (len(names) - 1) / 2)
                panel.barh(y, width, 0.25, color=colors[name])
                weight = "bold" if name == "ours" else "normal"
                style = {"va": "center", "fontsize": 7, "weight": weight}
                panel.text(width, y, f" {width:.1f}", path_effects=outline, **style)
        copy = panel.axvline(1, color="black", linewidth=1, linestyle=":")
        names = (v["row"] + (", frozen" if v["step"] == "frozen" else "") for v in lines)
        panel.set_yticks(range(len(lines)), names)
        panel.set_title(title)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.08, y=0.02)
        panel.invert_yaxis()
    bars = [plt.Rectangle((0, 0), 1, 1, color=color) for color in colors.values()]
    unit = "time / time to copy the bytes (shorter is better)"
    names = "BN, LN, GN: batch, layer, group normalization"
    place = {"loc": "outside lower center", "ncols": 4, "frameon": False}
    figure.legend([*bars, copy], [*labels.values(), "copy"], title=f"{unit}\n{names}", **place)
    figure.suptitle(f"{result['title']} ({result['versions']}; CPU, {result['date']})")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _names(lines):
    return "; ".join(f"{v['row']} {v['step']} {v['ours/best']:.2f}" for v in lines) or "none"
