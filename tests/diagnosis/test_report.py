"""The report as a table, as HTML and as a picture."""

import re

import pytest
from keras import layers

import keras_norm
from keras_norm import BatchNormalization, diagnose
from keras_norm.diagnosis.report import wrapped
from tests.diagnosis.helpers import data, make_model


def report():
    names = ("a<b", "second")
    model = make_model(*(BatchNormalization(name=name) for name in names))
    return diagnose(model, data(64, 3, mean=9.0), batch_size=16, verbose=0)


def test_table():
    lines = str(report()).splitlines()
    assert lines[0].split() == ["layer", "kind", "channels", "value"]
    assert lines[1].split()[:5] == ["a<b", "statistics", "3", "of", "3"]
    assert lines[2] == ""
    # The remedy once, in lines that fit a terminal.
    assert lines[3].startswith("statistics: Moving statistics differ from the data")
    assert max(map(len, lines)) <= 80


def test_code_in_remedies_can_be_pasted():
    """Lines break only where Python allows it."""
    model = make_model(layers.BatchNormalization(name="norm"))
    text = str(diagnose(model, data(64, 3, mean=9.0), batch_size=2, verbose=0))
    namespace = {"keras_norm": keras_norm, "model": model, "x": data(64, 3, mean=9.0)}
    codes = re.findall("`([^`]*[(=][^`]*)`", text)
    assert [code.partition("(")[0].split(".")[-1] for code in codes] == [
        *("from_keras", "update_population_statistics"),
        *("synchronized=True", "renorm=True", "replace_normalization"),
    ]
    for code in codes:
        exec(code, namespace)


@pytest.mark.parametrize("size", range(40, 80))
def test_assignments_stay_on_one_line(size):
    assert "`model = f(model" in wrapped("kind", f"{'x' * size} `model = f(model, x)`", 80)


def test_layers_of_one_name_are_told_apart_by_their_paths():
    inner = (make_model(BatchNormalization(name="norm")) for _ in range(2))
    report = diagnose(make_model(*inner), data(64, 3, mean=9.0), verbose=0)
    name = str(report).splitlines()[1].split()[0]
    assert name == report.findings[0].layer.path
    assert name.endswith("/norm")


def test_html():
    html = report()._repr_html_()
    assert ">a&lt;b</td>" in html
    assert html.count("<tr>") == 2
    assert "<code>keras_norm.update_population_statistics(model, x)</code>" in html


def test_no_findings():
    model = make_model(BatchNormalization(), layers.Dense(3), layers.LayerNormalization())
    healthy = diagnose(model, data(64, 3), verbose=0)
    assert str(healthy) == "No findings in 2 normalization layers."
    assert healthy._repr_html_() == "<p>No findings in 2 normalization layers.</p>"


def test_picture(tmp_path):
    """Every kind of layer has a row; what is found is written beside it."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    from keras_norm.diagnosis import picture

    x = data(64, 3, mean=9.0)
    x[:, 0] = 1e5 + 1e-3 * x[:, 0]
    norm = layers.BatchNormalization(name="norm")
    model = make_model(norm, layers.LayerNormalization(name="last", scale=False))
    norm.gamma.assign([1.0, 0.0, 1.0])
    figure = picture.figure(diagnose(model, x, batch_size=16, verbose=0)._examined, [])
    panels = figure.axes
    assert len(panels) == len(picture.COLUMNS)
    assert [label.get_text() for label in panels[0].get_yticklabels()] == [
        "norm\nBatchNormalization",
        "last\nLayerNormalization",
    ]
    beside = [text.get_text() for text in panels[-1].texts]
    assert beside[0].splitlines() == [
        "gamma: 1 of 3", "statistics: 3 of 3", "constant: 1 of 3", "mean: 1 of 3",
    ]  # fmt: skip
    assert beside[1] == "healthy"
    assert "1 of 2 normalization layers" in figure.get_suptitle()
    assert not pyplot.get_fignums()  # no figure stays open or appears in a notebook
    report().plot(tmp_path / "report.png")
    assert pyplot.imread(tmp_path / "report.png").shape[1] > 500


@pytest.mark.parametrize("scale", [True, False])
def test_pictures_of_models_without_batch_normalization(scale, tmp_path):
    pytest.importorskip("matplotlib")
    model = make_model(layers.LayerNormalization(scale=scale))
    diagnose(model, data(8, 3), verbose=0).plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 1000
