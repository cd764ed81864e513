"""No simulated run beats a bound; small cases equal brute force."""

from __future__ import annotations

import random
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
from moex.prefetch.base import Prefetcher
from moex.prefetch.none import NoPrefetch
from moex.prefetch.oracle import Oracle
from moex.prefetch.previous import Previous
from moex.prefetch.random import Random as RandomPrefetch
from moex.sim.bounds import floors, time_floor
from moex.sim.hardware import HardwareProfile
from moex.sim.simulator import simulate
from moex.types import Expert, Prediction

POLICIES = [LRU(), LFU(), FIFO(), Random(), Belady(), Belady(bypass=True)]


class Wanderer(Prefetcher):
    """Names experts of the next `horizon` visits by lot, nearest or farthest visit first."""

    def __init__(self, seed, horizon, width, far_first):
        self.seed, self.horizon, self.width, self.far_first = seed, horizon, width, far_first

    def reset(self, geometry, seed):
        self.geometry, self.draws = geometry, random.Random(self.seed)

    def predict(self, observation):
        ahead = range(1, self.horizon + 1)
        layers, experts = self.geometry.layers, range(self.geometry.experts)
        return [
            Prediction(Expert((observation.access.layer + far) % layers, index), 1.0)
            for far in (reversed(ahead) if self.far_first else ahead)
            for index in self.draws.sample(experts, self.width)
        ]


PREFETCHERS = st.one_of(
    st.just(NoPrefetch()),
    st.just(Previous(depth=2)),
    st.builds(RandomPrefetch, width=st.integers(1, 3)),
    st.builds(
        Oracle,
        precision=st.sampled_from([0.3, 0.8, 1.0]),
        recall=st.sampled_from([0.5, 1.0]),
        horizon=st.integers(1, 4),
    ),
)


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


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    prompt=st.sampled_from([0, 0, 4]),
    slots=st.integers(2, 6),
    staging=st.integers(1, 9),
    pool=st.sampled_from(["layer", "global"]),
    cold=st.booleans(),
    policy=st.sampled_from(POLICIES),
    prefetcher=PREFETCHERS,
    load_s=st.sampled_from([0.1, 1.0, 3.0]),
    latency_s=st.sampled_from([0.0, 0.5]),
    computing=st.tuples(*[st.sampled_from([0.0, 0.3, 2.0])] * 3),
    chunk=st.sampled_from([7, 1000]),
)
def test_no_run_is_faster_than_the_time_floor(
    seed,
    prompt,
    slots,
    staging,
    pool,
    cold,
    policy,
    prefetcher,
    load_s,
    latency_s,
    computing,
    chunk,
):
    trace = random_trace(seed, experts=6, tokens=12, sequences=3, prompt=prompt)
    hardware = HardwareProfile(
        "test", trace.geometry.expert_bytes / load_s, latency_s, chunk, *computing
    )
    cache = ExpertCache(policy, trace.geometry, slots, pool, staging, future=trace.future())
    report = simulate(trace, cache, prefetcher, hardware, cold)
    bound = {
        phase: time_floor(trace, slots, hardware, pool, staging, cold, phase)
        for phase in ("decode", "prefill", None)
    }
    assert bound["decode"] <= report.decode_s + 1e-9
    assert bound["prefill"] <= report.prefill_s + 1e-9
    assert bound[None] <= report.decode_s + report.prefill_s + 1e-9
    used = report.demand_misses + report.prefetch_used
    assert used >= floors(trace, slots, pool, cold).belady_bypass or prompt


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    horizon=st.integers(1, 3),
    width=st.integers(1, 4),
    far_first=st.booleans(),
    layers=st.integers(1, 3),
    slots=st.integers(2, 5),
    staging=st.sampled_from([1, 3, 4, 8, 20]),
    pool=st.sampled_from(["layer", "global"]),
    load_s=st.sampled_from([0.02, 0.3, 1.0, 4.0]),
    extra_s=st.tuples(*[st.sampled_from([0.0, 0.2])] * 3),
    policy=st.sampled_from(POLICIES),
)
def test_bounds_hold_for_guesses_several_visits_ahead(
    seed, horizon, width, far_first, layers, slots, staging, pool, load_s, extra_s, policy
):
    trace = random_trace(seed, layers=layers, experts=6, tokens=15)
    staging = min(staging, 6 * layers)
    submit_s, later_s, predict_s = extra_s
    hardware = replace(
        HardwareProfile("test", trace.geometry.expert_bytes / load_s, visit_s=0.5, chunk_bytes=30),
        submit_s=submit_s,
        load_s=later_s,
        predict_s=predict_s,
    )
    cache = ExpertCache(policy, trace.geometry, slots, pool, staging, future=trace.future())
    prefetcher = Wanderer(seed, horizon, width, far_first)
    report = simulate(trace, cache, prefetcher, hardware)
    assert time_floor(trace, slots, hardware, pool, staging) <= report.decode_s + 1e-9
    used = report.demand_misses + report.prefetch_used
    assert used >= floors(trace, slots, pool).belady_bypass


def test_the_time_floor_is_tight_where_link_or_computing_alone_decide():
    trace = random_trace(2, experts=12, top_k=2, tokens=200, sequences=1)
    size = trace.geometry.expert_bytes
    slow = HardwareProfile("slow link", link_bytes_per_s=size)
    loads = floors(trace, 4).belady_bypass
    assert time_floor(trace, 4, slow) == pytest.approx(loads, rel=0.02)
    fast = HardwareProfile("fast link", link_bytes_per_s=1e6 * size, visit_s=1.0)
    assert time_floor(trace, 4, fast) == pytest.approx(len(trace), rel=0.02)


def test_an_untimed_profile_is_refused():
    with pytest.raises(ValueError, match="hardware=rtx3090"):
        time_floor(random_trace(0), 3, HardwareProfile())


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
