"""A lossy run says what it switched on, what it moved, and how the usual method compares."""

from __future__ import annotations

from moex.cli.explain import explain
from moex.runs.report import Report

TASKS = [{"task": "facts", "metric": "acc", "value": 0.61, "stderr": 0.02, "n": 400}]


def row(folder, run: str, **fields: object) -> Report:
    given = {"source": "live", "mode": "live", "slots": 4, "store": "disk", "hardware": "auto"}
    given |= {"requests": 100, "tokens_per_second": 100.0, "bytes_moved": 50_000_000}
    report = Report(run_id=run, **given | fields)  # type: ignore[arg-type]
    (folder / run).mkdir()
    report.write(folder / run)
    return report


def corm(folder, **fields: object) -> Report:
    about = {"prefetcher": "corm", "sparsity": "corm", "lossy": ["sparsity"], "stall_share": 0.1}
    about |= {"rows_moved": False, "break_even": 0.09, "bytes_selected": 9_000_000, "tasks": TASKS}
    return row(folder, "mine", **about | fields)


def test_an_exact_run_needs_no_explanation(tmp_path):
    assert explain(row(tmp_path, "a", prefetcher="gate"), tmp_path / "a") == []


def test_whole_experts_are_explained_by_the_break_even(tmp_path):
    told = explain(corm(tmp_path), tmp_path / "mine")
    assert told[0].startswith("lossy: prefetch=corm switches on sparsity=corm")
    assert "whole experts were moved, 50.0 MB (selected: 9.0 MB)" in told[1]
    assert "faster from 9 % of an expert's rows on" in told[1]
    assert "prefetch=gate sparsity=none" in told[2]
    assert "hardware=scale_model" in told[3]


def test_rows_are_explained_by_those_there_in_time(tmp_path):
    told = explain(corm(tmp_path, rows_moved=True, row_hit_rate=0.812), tmp_path / "mine")
    assert "rows were moved: 81.2 % of the selected rows were there in time" in told[1]


def test_the_usual_method_is_compared_if_its_row_is_there(tmp_path):
    row(tmp_path, "other", prefetcher="gate", slots=3)
    before = [TASKS[0] | {"value": 0.62}]
    row(tmp_path, "usual", prefetcher="gate", tokens_per_second=80.0, tasks=before)
    told = explain(corm(tmp_path, bytes_moved=25_000_000), tmp_path / "mine")
    assert "(run usual): speed 1.25x, bytes moved 0.50x" in told[2]
    assert "facts acc 0.610 ± 0.020 instead of 0.620 ± 0.020" in told[2]


def test_a_run_that_its_link_limits_is_told_of_no_other_regime(tmp_path):
    told = explain(corm(tmp_path, stall_share=0.7), tmp_path / "mine")
    assert not any("scale_model" in line for line in told)
