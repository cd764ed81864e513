"""memory.budget gives the same slots before a run, in it, and in a replay of its trace."""

from __future__ import annotations

import re

import pytest
from test_plan import run
from test_simulate_quantized import row

from moex.api import read_trace

QUIET = ("tracker=none", "bottleneck=false", "eval=none")
BUDGET = ("memory.slots=null", "memory.budget=30MB", "hardware=toy", "prefetch=gate")
SHORT = ("workload.new_tokens=4", "workload.repeats=1", "workload.warmup=0", "workload.limit=1")


@pytest.mark.study
@pytest.mark.parametrize("given", ["30MB", "0.6"])
def test_plan_live_and_simulate_have_the_same_slots(given, tmp_path):
    words = (*BUDGET, f"memory.budget={given}", *QUIET)
    planned = row("mode=plan", *words, *SHORT, folder=tmp_path)
    live = row(*words, *SHORT, folder=tmp_path)
    trace = f"trace=results/{live['run_id']}/trace.parquet"
    simulated = row("mode=simulate", trace, *words, folder=tmp_path)
    assert 2 <= planned["slots"] < 8
    assert planned["slots"] == live["slots"] == simulated["slots"]
    recorded = read_trace(tmp_path / trace.removeprefix("trace=")).provenance
    assert sum(recorded["needs"].values()) + live["capacity_bytes"] == live["planned_device_bytes"]
    assert (recorded["layer_bytes"], recorded["pass_bytes"]) == (267_370, 3072 * 256 * 2)
    assert simulated["costs"] is None


def test_a_trace_without_these_bytes_refuses_a_budget_in_one_line(tmp_path):
    words = ("mode=simulate", "trace=tiny", "smoke=true", *BUDGET, *QUIET)
    done = run(*words, folder=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert "memory.budget=30MB: a budget also holds the bytes beside experts" in line
    typed = re.findall(r"memory\.\w+=\w+", line.partition("try ")[2])
    assert row(*words, *typed, folder=tmp_path)["slots"] == 4
