"""The speed of neurons against whole experts: tiny forms run, intervals are over prompts."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from studies import EXPERIMENTS, run, script

pytestmark = pytest.mark.study


def test_when_rows_pay_is_measured_from_memory_and_files(tmp_path, monkeypatch):
    out = tmp_path / "rows.jsonl"
    run(monkeypatch, "studies/neurons/bench.py", "density", "--out", out, "--folder", tmp_path)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    found = {row["store"]: row["break_even"] for row in rows if "break_even" in row}
    assert set(found) == {"ram", "disk"}
    assert all(0 < share <= 1 for share in found.values())


def test_neurons_of_a_large_model_are_compared_from_files(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "studies/neurons/geometry.py", "--folder", tmp_path)
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (row["random_weights"], row["replayed_routing"]) == (True, True)
    assert 0 < row["neurons_device_bytes"] <= row["whole_device_bytes"]
    assert row["neurons_bytes_demand"] > 0


def test_an_interval_is_over_prompts_and_repeats_do_not_narrow_it(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "studies/neurons")
    over_prompts = script("studies/neurons/sides.py").over_prompts
    turns = [[[1.0, 1.0], [2.0, 1.0], [4.0, 1.0]], [[1.0, 1.0], [2.0, 1.0], [9.0, 1.0]]]
    found = over_prompts(turns)
    assert found["by_prompt"] == pytest.approx([1, 2, 6])
    logs = np.log([1, 2, 6])
    half = 4.303 * logs.std(ddof=1) / 3**0.5  # Student's t of two degrees of freedom
    assert found["speedup"] == pytest.approx(2)
    assert found["low"] == pytest.approx(np.exp(logs.mean() - half))
    assert (found["runs"], found["runs_least"], found["runs_most"]) == (6, 1, 9)
    again = over_prompts(turns * 50)
    assert (again["low"], again["high"]) == pytest.approx((found["low"], found["high"]))
    with pytest.raises(ValueError, match="at least 2"):
        over_prompts([[[1.0, 1.0]]] * 7)


def test_each_side_decodes_every_prompt_and_they_begin_in_turns(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "studies/neurons")
    called = []

    class Side:
        def __init__(self, name):
            self.name = name

        def seconds(self, prompts, tokens):
            called.append((self.name, *prompts))
            return 10.0 * prompts[0] + (self.name == "b")

        def statistics(self):
            return {f"{self.name}_bytes": len(called)}

    turn = script("studies/neurons/sides.py").turn
    seconds, told = turn([Side("a"), Side("b")], [1, 2], 4, 0)
    assert seconds == [[10, 11], [20, 21]]
    assert called == [("a", 1), ("b", 1), ("b", 2), ("a", 2)]
    assert told == {"a_bytes": 2.5, "b_bytes": 2.5}
    turn([Side("a"), Side("b")], [1], 4, 1)
    assert called[-2:] == [("b", 1), ("a", 1)]


def test_the_surface_of_neurons_is_measured_and_shown(tmp_path, monkeypatch, capsys):
    out = tmp_path / "surface.jsonl"
    run(monkeypatch, "studies/neurons/bench.py", "surface", "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["load_over_layer"] for row in rows] == [4, 0]
    assert all(row["emulated"] and row["prompts"] == 2 for row in rows)
    assert all(row["neurons_device_bytes"] <= row["whole_device_bytes"] for row in rows)
    shown = script("studies/neurons/tables.py")
    monkeypatch.setattr(sys, "argv", ["tables.py", str(out)])
    capsys.readouterr()
    shown.main()
    told, row = capsys.readouterr().out, rows[0]
    interval = f"[{row['low']:.2f}, {row['high']:.2f}]"
    assert f"| 4 | 3 | 6 x 0.33 | 40% | {1e3 * row['whole_s']:.1f} |" in told
    assert f"README.md: {row['speedup']:.2f}x {interval} over 2 prompts of 16 tokens" in told
