"""Curves equal the object simulator, number for number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import literal, random_trace

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.sim.curves.stack import KINDS, curves
from moex.sim.simulator import simulate
from moex.trace.importers import arrays

POLICIES = {
    "lru": LRU(),
    "lfu": LFU(),
    "fifo": FIFO(),
    "belady": Belady(),
    "belady-bypass": Belady(bypass=True),
}


def simulated(trace, name, slots, pool, cold):
    cache = ExpertCache(
        POLICIES[name], trace.geometry, slots, pool=pool, staging=3, future=trace.future()
    )
    return simulate(trace, cache, cold=cold)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    top_k=st.integers(1, 3),
    prompt=st.sampled_from([0, 0, 2, 5]),
    pool=st.sampled_from(["layer", "global"]),
    cold=st.booleans(),
)
def test_every_point_equals_the_simulator(seed, top_k, prompt, pool, cold):
    trace = random_trace(seed, experts=7, top_k=top_k, tokens=15, prompt=prompt)
    decode = curves(trace, tuple(KINDS), pool=pool, cold=cold)
    prefill = curves(trace, tuple(KINDS), pool=pool, cold=cold, phase="prefill")
    for name in KINDS:
        for point, slots in enumerate(decode[name].slots):
            report = simulated(trace, name, int(slots), pool, cold)
            assert decode[name].hits[point] == report.resident_hits
            assert decode[name].requests == report.requests
            if decode[name].visits:
                assert decode[name].all_hits[point] / decode[name].visits == report.all_hit_rate
            assert prefill[name].hits[point] == report.prefill_resident_hits


def test_stacks_are_used_where_inclusion_holds_and_replay_elsewhere():
    trace = random_trace(1, experts=8, top_k=2, tokens=20, prompt=3)
    largest = max(len(access.experts) for access in trace.accesses())
    assert largest > 2
    lru = curves(trace, ("lru",))["lru"]
    expected = ["stack" if slots >= largest else "replay" for slots in lru.slots]
    assert list(lru.method) == expected
    assert set(curves(trace, ("fifo",))["fifo"].method) == {"replay"}
    assert set(curves(trace, ("belady-bypass",))["belady-bypass"].method) == {"stack"}


def test_the_published_conformance_trace_has_12_hits():
    steps = [(0, 1), (0, 2), (0, 1), (0, 3), (0, 1)]
    visits = [(layer, step) for step in steps for layer in range(3)]
    curve = curves(literal(visits, layers=3, experts=4), ("lru",))["lru"]
    assert (curve.requests, curve.hits[0], curve.misses[0]) == (30, 12, 18)


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="lru, lfu, fifo, belady, belady-bypass"):
        curves(random_trace(0), ("arc",))


GOLDEN = {  # reference.md, section 1: reset at every sequence, and one stream
    ("lru", True): {4: 0.4268, 6: 0.5407, 8: 0.6409, 12: 0.7926, 16: 0.8885, 24: 0.9666},
    ("lfu", True): {4: 0.4268, 6: 0.5723, 8: 0.6777, 12: 0.8222, 16: 0.9042, 24: 0.9687},
    ("belady", True): {4: 0.4268, 6: 0.6477, 8: 0.7622, 12: 0.8826, 16: 0.9388, 24: 0.9745},
    ("lru", False): {4: 0.4275, 6: 0.5421, 8: 0.6430, 12: 0.7967, 16: 0.8952, 24: 0.9812},
    ("lfu", False): {4: 0.4275, 6: 0.5370, 8: 0.6331, 12: 0.7733, 16: 0.8648, 24: 0.9691},
}


@pytest.fixture(scope="module")
def gpt_oss(shared_traces):
    return arrays.read(shared_traces / "gpt-oss-20b-decode")


@pytest.mark.study
@pytest.mark.parametrize(("policy", "cold"), GOLDEN)
def test_golden_hit_rates_of_gpt_oss(gpt_oss, policy, cold):
    curve = curves(gpt_oss, (policy,), cold=cold)[policy]
    rates = dict(zip(curve.slots.tolist(), curve.hit_rate.tolist(), strict=True))
    for slots, golden in GOLDEN[policy, cold].items():
        assert rates[slots] == pytest.approx(golden, abs=6e-5)


def test_a_real_trace_equals_the_simulator(shared_traces):
    trace = arrays.read(shared_traces / "gpt-oss-20b-decode", sequences=3)
    trace = trace.select(slice(500 * 24, 640 * 24))  # the end of one sequence and the next
    drawn = curves(trace, tuple(KINDS), slots=[4, 9, 20], cold=True)
    for name, curve in drawn.items():
        for slots, hits in zip(curve.slots.tolist(), curve.hits.tolist(), strict=True):
            assert hits == simulated(trace, name, slots, "layer", cold=True).resident_hits
