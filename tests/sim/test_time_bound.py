"""No simulated run is faster than the lower bound; small cases equal brute force."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import literal, random_trace

from moex.api import read_trace, simulate
from moex.cache.base import CachePolicy
from moex.cache.belady import Belady
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.random import Random
from moex.hardware.profile import HardwareProfile
from moex.miss.host import Host
from moex.miss.hybrid import Hybrid
from moex.miss.skip import Skip
from moex.prefetch.base import Prefetcher
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.prefetch.oracle import Oracle
from moex.prefetch.previous import Previous
from moex.prefetch.random import Random as RandomPrefetch
from moex.sim.curves.stack import curves
from moex.sim.time_bound import belady_loads, decode_lower_bound
from moex.types import Expert, Prediction

CONF = Path(__file__).parents[2] / "conf"
POLICIES = [LRU(), LFU(), FIFO(), Random(), Belady(), Belady(bypass=True)]
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


class Wanderer(Prefetcher):
    """Predicts random experts of the next `horizon` visits, nearest or farthest visit first."""

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


@dataclass
class Scripted(CachePolicy):
    """Evicts by a script: a number for every eviction."""

    bypass: bool = True
    script: tuple[int, ...] = ()

    def reset(self, scope):
        self.turns = iter(self.script)

    def victim(self, candidates, now):
        return candidates[next(self.turns, 0) % len(candidates)]


class Told(Prefetcher):
    """Predicts by a script: an expert after every visit, or none."""

    def __init__(self, script):
        self.script = script

    def predict(self, observation):
        index = self.script[observation.access.clock]
        return [] if index is None else [Prediction(Expert(0, index), 1.0)]


def policy(name: str) -> CachePolicy:
    given = yaml.safe_load((CONF / "cache" / f"{name}.yaml").read_text())
    module, _, kind = given.pop("_target_").rpartition(".")
    return getattr(import_module(module), kind)(**given)


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
def test_no_run_is_faster_than_the_bound(
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
        "test",
        trace.geometry.expert_bytes / load_s,
        latency_s,
        chunk,
        *computing,
        expert_bytes=trace.geometry.expert_bytes,
    )
    given = {"pool": pool, "staging": staging, "hardware": hardware, "cold": cold}
    report = simulate(trace, policy, slots, prefetcher, **given)
    assert report.decode_lower_bound_s <= report.decode_s
    used = report.demand_misses + report.prefetch_used
    assert used >= belady_loads(trace, slots, pool, cold)[~trace.prefill].sum() or prompt


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
    extra_s=st.tuples(*[st.sampled_from([0.0, 0.2])] * 4),
    policy=st.sampled_from(POLICIES),
)
def test_it_holds_for_prefetches_several_visits_ahead(
    seed, horizon, width, far_first, layers, slots, staging, pool, load_s, extra_s, policy
):
    trace = random_trace(seed, layers=layers, experts=6, tokens=15)
    staging = min(staging, 6 * layers)
    submit_s, handover_s, later_s, predict_s = extra_s
    hardware = replace(
        HardwareProfile("test", trace.geometry.expert_bytes / load_s, visit_s=0.5, chunk_bytes=30),
        submit_s=submit_s,
        handover_s=handover_s,
        load_s=later_s,
        predict_s=predict_s,
        expert_bytes=trace.geometry.expert_bytes,
    )
    prefetcher = Wanderer(seed, horizon, width, far_first)
    where = {"pool": pool, "staging": staging, "hardware": hardware}
    report = simulate(trace, policy, slots, prefetcher, **where)
    assert report.decode_lower_bound_s <= report.decode_s
    used = report.demand_misses + report.prefetch_used
    assert used >= belady_loads(trace, slots, pool).sum()


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "cache").glob("*.yaml")))
def test_it_holds_for_every_policy_on_a_recorded_trace(name):
    trace = read_trace("tiny").select(slice(900))
    size = trace.geometry.expert_bytes
    for load_s in (1e-4, 1e-3, 1e-2):
        hardware = HardwareProfile(
            "test", size / load_s, visit_s=7e-4, expert_s=1e-4, expert_bytes=size
        )
        alone = () if name == "forecast" else (NoPrefetch(),)
        for prefetcher in (*alone, Gate(), Oracle(), Oracle(horizon=4)):
            report = simulate(trace, policy(name), 3, prefetcher, hardware=hardware)
            assert report.decode_lower_bound_s <= report.decode_s


@pytest.mark.parametrize("computing_s", [0.0, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("sequence", [(0, 1, 2, 0), (0, 1, 0, 2), (1, 2, 1, 1)])
def test_it_is_below_the_best_of_all_choices_and_met_on_the_link(sequence, computing_s):
    trace = literal([(0, (index,)) for index in sequence], experts=3, top_k=1)
    size = trace.geometry.expert_bytes
    hardware = HardwareProfile("test", size, visit_s=computing_s, expert_bytes=size)
    evictions = list(product(range(2), repeat=3))
    predictions = [(*told, None) for told in product((None, 0, 1, 2), repeat=3)]
    found = [
        simulate(trace, Scripted(script=who), 1, Told(what), staging=3, hardware=hardware)
        for who, what in product(evictions, predictions)
    ]
    best, bound = min(report.decode_s for report in found), found[0].decode_lower_bound_s
    assert bound <= best
    if not computing_s:
        assert bound == pytest.approx(best, rel=1e-8)


@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize("cold", [False, True])
def test_loads_of_every_visit_add_up_to_belady_s_curve(pool, cold):
    trace = random_trace(5, tokens=60)
    curve = curves(trace, ("belady-bypass",), pool=pool, cold=cold)["belady-bypass"]
    for slots, misses in zip(curve.slots.tolist(), curve.misses.tolist(), strict=True):
        assert belady_loads(trace, slots, pool, cold).sum() == misses


def test_it_is_tight_where_link_or_computing_alone_decide():
    trace = random_trace(2, experts=12, top_k=2, tokens=200, sequences=1)
    size = trace.geometry.expert_bytes
    slow, loads = HardwareProfile("slow link", link_bytes_per_s=size), belady_loads(trace, 4).sum()
    assert decode_lower_bound(trace, slow, 4) == pytest.approx(loads, rel=0.02)
    fast = HardwareProfile("fast link", link_bytes_per_s=1e6 * size, visit_s=1.0)
    assert decode_lower_bound(trace, fast, 4) == pytest.approx(len(trace), rel=0.02)


def test_windows_make_it_tighter_where_limits_alternate():
    easy = [(0, (0, 1))] * 200
    hard = [(0, pair) for pair in [(0, 1), (2, 3), (4, 5)] * 60]
    trace = literal(hard + easy, experts=6)
    hardware = HardwareProfile("test", trace.geometry.expert_bytes, visit_s=1.0)
    whole = max(len(trace), belady_loads(trace, 2).sum())
    assert decode_lower_bound(trace, hardware, 2) > 1.1 * whole


def test_whole_number_costs_are_seconds_like_all_others():
    trace = random_trace(3, tokens=10)
    whole = HardwareProfile("test", 25, visit_s=1, expert_s=1, pass_s=0.5)
    same = HardwareProfile("test", 25.0, visit_s=1.0, expert_s=1.0, pass_s=0.5)
    assert decode_lower_bound(trace, whole, 3) == decode_lower_bound(trace, same, 3)


def test_it_is_given_only_where_it_is_valid():
    trace = read_trace("tiny").select(slice(60))
    size = trace.geometry.expert_bytes
    timed = HardwareProfile("test", 1e9, visit_s=1e-3, host_expert_s=1e-3, expert_bytes=size)
    assert simulate(trace, hardware=timed).decode_lower_bound_s > 0
    assert simulate(trace).decode_lower_bound_s is None
    assert simulate(trace, hardware=HardwareProfile()).decode_lower_bound_s is None
    for miss in (Host(), Hybrid(), Skip()):
        assert simulate(trace, hardware=timed, miss=miss).decode_lower_bound_s is None
    trace.rows = [[None] * 2] * len(trace)
    assert simulate(trace, hardware=timed, sparsity=True).decode_lower_bound_s is None
    with pytest.raises(ValueError, match="try hardware=rtx3090"):
        decode_lower_bound(trace, HardwareProfile(), 3)
