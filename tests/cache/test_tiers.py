"""The host tier: what it holds, and where the device's loads come from."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import random_trace

from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.cache.variants.tiers import TieredCache, described, host_policy
from moex.decisions.decisions import Decisions
from moex.prefetch.previous import Previous
from moex.sim.replay import replay
from moex.types import DECODE, Access, Expert, Geometry

GEOMETRY = Geometry(layers=1, experts=6, top_k=1, hidden=4, intermediate=4, expert_bytes=48)
PAIRS = [(one, other) for one in ("lru", "lfu", "belady") for other in ("lru", "lfu", "belady")]


def cache_of(residents, tiers, slots=1, policy="lru") -> TieredCache:
    memory = Memory(slots, staging=2, host=48 * (residents + 2), host_policy=policy, tiers=tiers)
    return Decisions(LRU(), memory).build(GEOMETRY)


def visit(cache, clock, index):
    (plan,) = cache.request(Access(clock, clock, 0, DECODE, (index,)))
    return plan


def held(cache):
    return [expert.index for expert in cache.host.residents]


def test_inclusive_keeps_what_was_loaded_until_its_own_policy_evicts_it():
    cache = cache_of(2, "inclusive")
    sources = [visit(cache, clock, index).sources for clock, index in enumerate((0, 1, 0, 2, 1))]
    assert [each[0].hit for each in sources] == [False, False, True, False, False]
    assert held(cache) == [2, 1]
    assert sources[2][0].slot == sources[0][0].slot


def test_exclusive_holds_what_left_the_device_and_nothing_else():
    cache = cache_of(2, "exclusive")
    for clock, index in enumerate((0, 1, 2)):
        plan = visit(cache, clock, index)
        assert plan.sources[0] == (False, -1)
    assert [each.expert.index for each in plan.demoted] == [1]
    assert held(cache) == [0, 1]
    assert visit(cache, 3, 0).sources[0].hit
    assert held(cache) == [1, 2]
    assert cache.residents(0) == [Expert(0, 0)]


def test_exclusive_without_device_slots_keeps_what_passed_through_staging():
    cache = cache_of(2, "exclusive", slots=0)
    hits = [visit(cache, clock, index).sources[0].hit for clock, index in enumerate((0, 1, 0, 1))]
    assert hits == [False, False, True, True]


def test_every_load_has_a_time_of_its_own():
    trace = random_trace(1, 1, 6, 1, tokens=9, sequences=1, prompt=5)
    cache = cache_of(2, "inclusive", policy="lfru")  # divides by the time since the last use
    for access in trace.accesses():
        for plan in cache.request(access):
            assert len(plan.sources) == len(plan.loads)


def test_a_freed_host_slot_is_reused_last():
    cache = cache_of(2, "inclusive")
    slots = [visit(cache, clock, clock).sources[0].slot for clock in range(4)]
    assert len({*slots}) == 4  # two residents and two of staging


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    slots=st.integers(0, 4),
    residents=st.integers(1, 12),
    tiers=st.sampled_from(["inclusive", "exclusive"]),
    policy=st.sampled_from(["lru", "lfu", "random", "fifo", "arc"]),
    prefetches=st.booleans(),
)
def test_the_device_decides_as_without_a_host_tier(
    seed, slots, residents, tiers, policy, prefetches
):
    trace = random_trace(seed, 3, 6, 2, tokens=10, sequences=2, prompt=4)
    size = trace.geometry.expert_bytes
    memory = Memory(slots, host=size * (residents + 4), host_policy=policy, tiers=tiers)
    decisions = Decisions(LRU(), memory, Previous() if prefetches else None)
    tiered, plain = [], []
    report = replay(decisions, trace, on_plan=tiered.append)
    replay(decisions.untiered, trace, on_plan=plain.append)
    assert [each._replace(sources=(), demoted=()) for each in tiered] == plain
    cache = decisions.build(trace.geometry)
    for access in trace.accesses():
        for plan in cache.request(access):
            inside = cache.host.residents
            assert len(inside) <= residents
            if tiers == "exclusive":
                on_device = {e for layer in range(3) for e in cache.residents(layer)}
                assert not on_device & {*inside}
            assert len(plan.sources) == len(plan.loads)
    loads = sum(len(plan.loads) for plan in plain)
    if not prefetches:
        counted = report.host_hits + report.host_loads
        assert counted + report.prefill_demand_misses == loads


@pytest.mark.parametrize("tiers", ["inclusive", "exclusive"])
@pytest.mark.parametrize("device", ["lru", "belady"])
def test_belady_in_the_host_tier_reads_least_from_the_disk(device, tiers):
    trace = random_trace(4, 3, 8, 2, tokens=60, sequences=1, prompt=0)
    size, loads = trace.geometry.expert_bytes, {}
    for policy in ("lru", "lfu", "fifo", "belady"):
        memory = Memory(2, host=size * 12, host_policy=policy, tiers=tiers)
        report = replay(Decisions(host_policy(device), memory), trace)
        loads[policy] = report.host_loads
    assert loads["belady"] < min(loads[policy] for policy in ("lru", "lfu", "fifo"))


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (Memory(2, host=100), "memory.host=100 (100 bytes): expected at least 144 bytes"),
        (Memory(2, host="lots"), "memory.host=lots: expected bytes"),
        (Memory(2, host=480, host_policy="lur"), "memory.host_policy=lur: expected one of "),
        (Memory(2, host=480, host_policy="belady"), "needs the future of the device's loads"),
        (Memory(2, host=480, rows=0.5), "memory.rows=0.5: slots for a share of an expert"),
    ],
)
def test_a_wrong_host_tier_is_refused_in_one_line(memory, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        Decisions(LRU(), memory).build(GEOMETRY)
    assert "\n" not in str(error.value)


def test_a_wrong_rule_is_refused():
    with pytest.raises(
        ValueError, match=r"memory.tiers=both: expected one of inclusive, exclusive"
    ):
        Memory(tiers="both")


def test_a_row_says_what_the_host_tier_is():
    found = described(cache_of(2, "exclusive", policy="lfu"))
    assert found == {"host_bytes": 4 * 48, "host_policy": "LFU", "tiers": "exclusive"}
