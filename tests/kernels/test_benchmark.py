"""The benchmark runs; how long anything takes is no matter of tests."""

import json

import keras
import pytest

from benchmarks import report, rows
from benchmarks.__main__ import main


def test_it_runs_on_a_tiny_size(tmp_path, monkeypatch, capsys):
    if keras.backend.backend() == "jax":
        pytest.importorskip("flax")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(rows, "ROWS", rows.ROWS[:1])
    monkeypatch.setattr(rows, "HALF_ROWS", rows.HALF_ROWS[:1])
    monkeypatch.setattr(rows, "SMALL_ROWS", rows.SMALL_ROWS[:1])
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
