"""A row is JSON, and JSON has finite numbers only."""

from __future__ import annotations

from math import inf, nan

import pytest

from moex.runs.atomic import write_lines
from moex.runs.measured import Clocked, measured
from moex.runs.report import Report
from moex.runs.sections import Bytes
from moex.types import DECODE, PREFILL

TASK = {"task": "made up", "metric": "acc", "value": nan, "stderr": None, "n": 1}


@pytest.mark.parametrize(
    ("field", "value"), [("tpot_s", nan), ("tokens_per_second", inf), ("tasks", [TASK])]
)
def test_a_row_with_what_json_has_not_is_refused_and_not_kept(tmp_path, field, value):
    report = Report(**{field: value})
    with pytest.raises(ValueError, match=rf"^row: {field}=.*; expected finite numbers"):
        report.write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_series_with_what_json_has_not_is_refused_and_not_kept(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_lines(tmp_path / "series.jsonl", [{"seconds": 1.0}, {"seconds": nan}])
    assert not list(tmp_path.iterdir())


def test_a_section_fills_its_own_fields_and_no_others():
    report = Report(policy="lru", tokens_decode=3)
    report.fill(Bytes(bytes_moved=7), repeats=2)
    assert (report.bytes_moved, report.repeats) == (7, 2)
    assert (report.policy, report.tokens_decode, report.bytes_demand) == ("lru", 3, None)


def test_a_field_that_no_row_has_is_refused():
    with pytest.raises(AttributeError, match="row: no field hit_rat; expected one of"):
        Report().fill(hit_rat=0.5)


def test_fields_of_a_row_are_in_the_order_of_its_sections():
    names = list(Report().__dict__)
    assert [names[0], names[-1]] == ["run_id", "schema"]
    order = ["smoke", "tokens_prefill", "drift", "requests", "row_hit_rate", "prefetch_issued"]
    order += ["bytes_selected", "stall_s", "peak_host_bytes", "prefill_requests", "equality"]
    order += ["bottleneck", "tasks", "code"]
    assert [name for name in names if name in order] == order


def test_what_only_had_a_clock_has_no_counts():
    report = Report()
    report.fill(*measured([], {PREFILL: Clocked(1, 8, 2.0), DECODE: Clocked(4, 4, 1.0, 0.5)}))
    assert (report.prefill_s, report.tokens_per_second, report.stall_share) == (2.0, 4.0, 0.5)
    assert (report.requests, report.prefill_requests, report.bytes_moved) == (None, None, None)
