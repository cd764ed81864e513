"""Policies that ask what the prefetcher forecasts: the same live and replayed, refused without."""

from __future__ import annotations

import pytest
from live_runs import both

from moex.cache.base import Forecast
from moex.cache.core import ExpertCache
from moex.cache.forecast import ByForecast
from moex.cache.lru import LRU
from moex.decisions.decisions import Decisions
from moex.paths import trace_path
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.prefetch.oracle import Oracle
from moex.prefetch.previous import Previous
from moex.prefetch.recorded import Recorded
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.sim.curves.policies import policy_curve
from moex.sim.replay import replay
from moex.sim.simulator import simulate
from moex.trace.format import read_trace, write_trace
from moex.types import DECODE, Access, Expert, Geometry, Prediction

GEOMETRY = Geometry(3, 8, 2, 8, 8, expert_bytes=800)
LINE = r"^cache=forecast with prefetch=none: .* try prefetch=gate [^\n]*$"


def access(clock, layer, *experts):
    return Access(clock, clock, layer, DECODE, experts)


def said(*experts):
    return [Prediction(Expert(*each), 1.0) for each in experts]


def test_a_forecast_is_of_the_layers_next_visit_until_that_has_passed():
    forecast = Forecast(layers=3)
    forecast.update(said((2, 4), (1, 5)), access(10, 1, 0, 1))
    asked = (Expert(2, 4), 10), (Expert(2, 4), 11), (Expert(1, 5), 10), (Expert(0, 0), 10)
    assert [forecast.next_use(*each) for each in asked] == [11, float("inf"), 13, float("inf")]
    forecast.update(said((1, 6)), access(12, 0, 0, 1))
    assert forecast.next_use(Expert(1, 5), 12) == float("inf"), "a newer forecast of its layer"
    assert forecast.next_use(Expert(1, 6), 12) == 13


def test_what_is_not_forecast_leaves_first_then_what_is_forecast_latest():
    cache = ExpertCache(ByForecast(), GEOMETRY, 2, "global")
    for clock, layer in enumerate((0, 1, 2)):
        list(cache.request(access(clock, layer, 0, 1)))
    cache.forecast(said((2, 0), (1, 0), (0, 0), (0, 1)), access(2, 2, 0, 1))
    evicted = []
    for clock, layer, experts in ((3, 0, (2, 3)), (4, 1, (2, 3))):
        for plan in cache.request(access(clock, layer, *experts)):
            evicted += [each.expert for each in plan.evictions]
    # When layer 0 is visited, what was forecast of this very visit counts no more.
    assert evicted == [(0, 0), (0, 1), (1, 0), (1, 1)]
    cache.reset()
    assert cache.future.next_use(Expert(2, 0), 4) == float("inf")


@pytest.mark.parametrize(
    ("prefetcher", "pool"), [(Gate(depth=3), "global"), (Previous(), "layer")], ids=repr
)
@pytest.mark.parametrize("name", ["mixtral", "olmoe"])
def test_a_replay_evicts_as_the_run_did(checkpoints, tmp_path, name, prefetcher, pool):
    loaded = load_model(str(checkpoints[name]))
    memory = Memory(loaded.geometry.top_k + 1, pool=pool)
    plans: dict = {}
    for policy in (ByForecast(), LRU()):
        setup, kept = Setup(policy, memory, prefetcher, governor=True), []
        offloaded = offload(loaded, setup, on_plan=kept.append)
        with offloaded as model:
            both(model, 3)
            offloaded.finish()
        plans[type(policy)] = kept
        path = write_trace(offloaded.recorder.trace({}), tmp_path / "trace.parquet")
        again = Setup(policy, memory, Recorded()).decisions("ram")
        for decisions in (setup.decisions("ram", offloaded.link.overlaps), again):
            replayed: list = []
            replay(decisions, read_trace(path), on_plan=replayed.append)
            assert replayed == kept or policy == LRU()
    evicted = {kind: [plan.evictions for plan in kept] for kind, kept in plans.items()}
    assert evicted[ByForecast] != evicted[LRU]


def test_a_perfect_forecast_saves_loads():
    trace = read_trace(trace_path("tiny"))
    loads = {}
    for policy in (ByForecast(), LRU()):
        cache = ExpertCache(policy, trace.geometry, 3, "global", staging=trace.geometry.top_k)
        report = simulate(trace, cache, Oracle(horizon=6))
        assert report.bytes_prefetch == 0
        loads[type(policy)] = report.demand_misses
    assert loads[ByForecast] < 0.95 * loads[LRU]


def test_a_forecast_without_a_prefetcher_is_refused_in_one_line():
    trace = read_trace(trace_path("tiny")).select(slice(60))
    with pytest.raises(ValueError, match=LINE):
        Decisions(ByForecast())
    with pytest.raises(ValueError, match=LINE):
        Setup(ByForecast(), prefetcher=NoPrefetch())
    with pytest.raises(ValueError, match=LINE):
        simulate(trace, ExpertCache(ByForecast(), trace.geometry, 3))
    with pytest.raises(ValueError, match=LINE):
        policy_curve(trace, ByForecast())
