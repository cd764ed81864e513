"""No simulated run beats a bound; small cases equal brute force."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import fewest, literal, random_trace

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.random import Random
from moex.hardware.profile import HardwareProfile
from moex.prefetch.oracle import Oracle
from moex.sim.bounds import floors
from moex.sim.simulator import simulate

POLICIES = [LRU(), LFU(), FIFO(), Random(), Belady(), Belady(bypass=True)]


@settings(max_examples=20)
@given(st.lists(st.sets(st.integers(0, 4), min_size=2, max_size=2), min_size=1, max_size=7))
def test_belady_with_bypass_equals_brute_force(visits):
    trace = literal([(0, tuple(visit)) for visit in visits], experts=5)
    for slots in (2, 3):
        assert floors(trace, slots).belady_bypass == fewest(visits, slots, bypass=True)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    slots=st.integers(2, 6),
    pool=st.sampled_from(["layer", "global"]),
    cold=st.booleans(),
)
def test_floors_are_ordered_and_below_every_policy(seed, slots, pool, cold):
    trace = random_trace(seed, experts=6, tokens=25)
    bound = floors(trace, slots, pool, cold)
    least = max(bound.compulsory, bound.capacity)
    assert least <= bound.belady_bypass <= bound.belady <= bound.requests
    for policy in POLICIES:
        cache = ExpertCache(policy, trace.geometry, slots, pool, future=trace.future())
        assert simulate(trace, cache, cold=cold).demand_misses >= bound.belady_bypass


def test_the_static_optimum_keeps_the_most_used():
    trace = literal([(0, pair) for pair in ((0, 1), (0, 2), (0, 3), (0, 2), (4, 2))], experts=5)
    assert floors(trace, 2).static == 10 - 4 - 3
    assert floors(trace, 5).static == 0


@pytest.mark.parametrize("seed", range(4))
def test_who_knows_more_of_the_future_is_not_slower(seed):
    trace = random_trace(seed, layers=3, experts=8, tokens=60)
    hardware = HardwareProfile("test", link_bytes_per_s=trace.geometry.expert_bytes, visit_s=0.5)
    future, perfect = trace.future(), Belady(bypass=True)
    free = replace(hardware, link_bytes_per_s=float("inf"))
    rungs = [
        simulate(trace, ExpertCache(policy, trace.geometry, 3, future=future), prefetcher, machine)
        for policy, prefetcher, machine in (
            (LRU(), None, hardware),
            (Belady(), None, hardware),
            (perfect, None, hardware),
            (perfect, Oracle(), hardware),
            (perfect, Oracle(), free),
        )
    ]
    loads = [report.demand_misses for report in rungs[:3]]
    assert loads == sorted(loads, reverse=True)
    speeds = [report.tokens_per_second for report in rungs[2:]]
    assert speeds == sorted(speeds)
    assert rungs[-1].stall_s == 0
    assert [report.oracle for report in rungs] == [False, True, True, True, True]
