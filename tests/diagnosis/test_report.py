"""The report as a table, as HTML and as a picture."""

import keras
from keras import layers

from keras_norm import BatchNormalization, diagnose
from tests.diagnosis.helpers import data, make_model


def report():
    names = ("a<b", "second")
    model = make_model(*(BatchNormalization(name=name) for name in names))
    return diagnose(model, data(64, 3, mean=9.0), batch_size=16, verbose=0)


def test_table():
    lines = str(report()).splitlines()
    assert lines[0].split() == ["layer", "kind", "channels", "value"]
    assert lines[1].split()[:3] == ["a<b", "statistics", "3"]
    assert lines[2] == ""
    # The remedy once, in lines that fit a terminal.
    assert lines[3].startswith("statistics: Moving statistics are this many times")
    assert max(map(len, lines)) <= 100


def test_html():
    html = report()._repr_html_()
    assert ">a&lt;b</td>" in html
    assert html.count("<tr>") == 2
    assert "update_population_statistics" in html


def test_no_findings():
    model = make_model(BatchNormalization(), layers.Dense(3), layers.LayerNormalization())
    healthy = diagnose(model, data(64, 3), verbose=0)
    assert str(healthy) == "No findings in 2 normalization layers."
    assert healthy._repr_html_() == "<p>No findings in 2 normalization layers.</p>"
