"""A replay charges the costs of the trace's own model, and its row says how they were made."""

from __future__ import annotations

import pytest
from traces import random_trace

from experiments.harness import machine
from moex.api import read_trace, simulate
from moex.hardware.profile import HardwareProfile
from moex.sim.bottleneck import fitted
from moex.sim.scaled import costs_line
from moex.trace.synthetic import generate
from moex.types import Geometry

SMALL = Geometry(2, 8, 2, 64, 128, 3 * 64 * 128 * 2)


def test_a_large_model_s_costs_are_not_charged_to_a_small_one():
    trace, fast = generate(SMALL, 30), machine("rtx4090")
    report = simulate(trace, slots=8, hardware=fast)
    raw_token_s = fast.resident_token_s(SMALL.layers, SMALL.top_k)
    assert report.tokens_per_second > 1.5 / raw_token_s
    assert "scaled from mixtral_8x7b_4.5bit, experts of 99000000 bytes, to 49152" in report.costs
    assert "estimated at 20480 bytes" in report.costs


def test_recorded_bytes_are_taken_before_estimates():
    trace, fast = generate(SMALL, 30), machine("rtx4090")
    trace.provenance |= {"layer_bytes": 10**9, "pass_bytes": 10**9}
    report = simulate(trace, slots=8, hardware=fast)
    rate = 0.85 * fast.memory_bytes_per_s
    assert 1 / report.tokens_per_second > 3 * 10**9 / rate
    assert "estimated" not in report.costs


PRESETS = {"tiny": ["toy"], "synthetic_mixtral": ["a100", "rtx3060", "rtx3080m", "t4"]}


@pytest.mark.parametrize("trace", PRESETS)
def test_bundled_traces_on_their_machines_are_not_scaled(trace):
    for name in PRESETS[trace]:
        assert costs_line(machine(name), read_trace(trace)) is None


def test_costs_of_no_model_are_refused_in_one_line():
    trace = random_trace(0)
    costs = HardwareProfile("typed", 1e9, visit_s=1e-3)
    line = "hardware=typed: .* try ..hardware.expert_bytes=100 if the costs are this model's"
    with pytest.raises(ValueError, match=line):
        simulate(trace, hardware=costs)


def test_a_live_run_s_own_costs_are_its_model_s():
    trace = generate(SMALL, 30)
    trace.provenance |= {"layer_bytes": 12345, "pass_bytes": 678}
    report = simulate(trace, hardware=machine("toy"))
    own = fitted(report, trace, machine("rtx4090"))
    assert own.on(SMALL, 12345, 678) is own
