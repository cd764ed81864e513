"""A row is JSON, and JSON has finite numbers only."""

from __future__ import annotations

from math import inf, nan

import pytest

from moex.runs.atomic import write_lines
from moex.runs.report import Report

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
