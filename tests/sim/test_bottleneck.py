"""The bottleneck names what plainly limits a run."""

from __future__ import annotations

from traces import literal, random_trace

from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.decisions.decisions import Decisions
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate_norm import GateNorm
from moex.prefetch.mlp import MLP
from moex.prefetch.oracle import Oracle
from moex.sim.bottleneck import analyze, analyze_live, live_line
from moex.sim.replay import replay


def machine(load_s, visit_s):
    return HardwareProfile("test", link_bytes_per_s=100 / load_s, visit_s=visit_s)


def bottleneck(visits, slots, hardware, prefetcher=None):
    trace = literal(visits, experts=6)
    return analyze(trace, Decisions(LRU(), Memory(slots), prefetcher), hardware)


def live(trace, decisions, hardware, report):
    """The line on a live run."""
    return live_line(analyze_live(trace, decisions, hardware, report), report)


CYCLE = [(0, pair) for pair in [(0, 1), (2, 3), (4, 5)] * 30]


def test_a_cycle_one_slot_too_large_for_lru_asks_for_a_policy_or_a_slot():
    visits = [(0, pair) for pair in [(0, 1), (2, 3), (0, 4)] * 30]
    assert bottleneck(visits, 4, machine(1, 0.01)).limit == "capacity"
    assert bottleneck(CYCLE, 3, machine(1, 1e-6)).limit == "bandwidth"


def test_counts_alone_judge_policy_against_capacity():
    judged = bottleneck(CYCLE, 4, None)
    assert judged.limit == "policy"
    assert set(judged.gains) == {"policy", "capacity"}
    assert str(judged).startswith("policy-limited at hit rate 0.000: perfect policy -")


def test_a_fast_link_leaves_computing():
    judged = bottleneck(CYCLE, 3, machine(1e-6, 1.0))
    assert judged.limit == "compute"
    assert "stall): 2x computing speed +100.0%" in str(judged)


def test_a_run_without_waiting_gains_from_computing_only():
    judged = bottleneck([(0, (0, 1))] * 40, 2, machine(1, 1.0))
    assert judged.limit == "compute"
    assert judged.gains["capacity"] == 0


def test_perfect_prefetch_hides_what_computing_covers():
    trace = random_trace(3, layers=4, experts=8, tokens=60, sequences=1)
    hidden = analyze(trace, Decisions(LRU(), Memory(3), Oracle()), machine(0.1, 1.0))
    assert hidden.limit == "compute"
    assert hidden.report.stall_share < 0.01


def test_a_live_row_is_judged_by_a_machine_like_its_own():
    trace = literal(CYCLE, experts=6)
    decisions = Decisions(LRU(), Memory(3))
    lived = replay(decisions, trace, machine(1, 0.25))  # stands in for a live run
    fitted = live(trace, decisions, HardwareProfile(), lived)
    emulated = live(trace, decisions, machine(1, 99.0), lived)
    assert fitted.startswith(f"bandwidth-limited at {lived.tokens_per_second:.3g} tokens/s")
    assert emulated == fitted
    assert fitted.endswith(f"as it is, they give {lived.tokens_per_second:.3g})")
    assert f" tokens/s ({lived.stall_share:.0%} stall): " in fitted


def test_a_prefetcher_needing_more_than_a_trace_holds_is_replayed_as_recorded():
    trace = random_trace(3, layers=4, experts=8, tokens=60, sequences=1)
    trace.predictions = [[] for _ in range(len(trace))]
    lived = replay(Decisions(LRU(), Memory(4)), trace)
    for prefetcher in (GateNorm(), MLP()):
        decisions = Decisions(LRU(), Memory(4), prefetcher)
        assert live(trace, decisions, None, lived).endswith("(simulated)")


def test_a_live_row_without_times_is_judged_by_counts():
    trace = literal(CYCLE, experts=6)
    decisions = Decisions(LRU(), Memory(4))
    told = live(trace, decisions, None, replay(decisions, trace))
    assert told.startswith("policy-limited at hit rate")
    assert told.endswith("(simulated)")
