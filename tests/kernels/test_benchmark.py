"""The benchmark runs; no test asserts a time."""

import json
import re

import keras
import pytest

from benchmarks import accuracy, card, report, rows
from benchmarks.__main__ import main

pytestmark = pytest.mark.slow


def test_it_runs_on_a_tiny_size(tmp_path, monkeypatch, capsys):
    if keras.backend.backend() == "jax":
        pytest.importorskip("flax")
    pytest.importorskip("matplotlib")
    for name in [name for name in vars(rows) if name.endswith("ROWS")]:
        monkeypatch.setattr(rows, name, getattr(rows, name)[:1])
    # `torch.compile` needs a C++ compiler, which this test does not check.
    monkeypatch.setattr(rows, "COMPILED_ROWS", [])
    monkeypatch.setattr("sys.argv", ["benchmarks", "--tiny", "--output", str(tmp_path)])
    main()
    assert "geometric means of training" in capsys.readouterr().out
    for path in tmp_path.glob("*.json"):
        result = json.loads(path.read_text())
        assert path.with_suffix(".png").stat().st_size > 0
        slow = json.loads(path.read_text())
        for line in slow["lines"]:
            line["ours/best"] *= 2
            line["ours/floor"] = line.get("ours/floor", 0) * 2
        assert result["lines"][0]["row"] in report.slower(slow, result)
        assert report.slower(result, result).endswith("nothing")


def test_accuracy_is_measured_for_every_row(monkeypatch, capsys):
    if keras.backend.backend() == "jax":
        pytest.importorskip("flax")
    # Without the long rows: what they measure is in other tests.
    members = [rows.tiny(row) for row in accuracy.members() if row not in rows.LONG_ROWS]
    monkeypatch.setattr(accuracy, "members", lambda: members)
    monkeypatch.setattr(accuracy, "MEANS", (0.0, 1e5))
    accuracy.main()
    shown = re.findall(r"ours (\S+)  keras (\S+)", capsys.readouterr().out)
    assert shown
    assert len(shown) % (2 * len(members)) == 0
    # The promised error; Keras's layers have it at a mean of 0, so all compute the same.
    assert all(float(ours) < 2e-6 for ours, _ in shown)
    assert all(float(keras) < 2e-6 for _, keras in shown[::2])


def test_a_card_would_be_measured(tmp_path, monkeypatch):
    if keras.backend.backend() == "jax":
        pytest.importorskip("flax")
    first = {"main": (rows.ROWS[:1], 1), "masks": (rows.MASKED_ROWS[:1], 1), "16 bits": ([], 1)}
    monkeypatch.setattr(rows, "sections", lambda: first)
    monkeypatch.setattr("sys.argv", ["card", "--tiny", "--output", str(tmp_path)])
    card.main()
    for path in tmp_path.glob("card-*.json"):
        lines = json.loads(path.read_text())["lines"]
        assert {"ms", "share of copy speed", "error at 0", "error at 100000"} == set(
            lines[0]["ours"]
        )
