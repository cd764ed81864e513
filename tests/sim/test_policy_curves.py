"""Curves of any policy equal the simulator at every capacity."""

from __future__ import annotations

import numba
import pytest
from traces import random_trace

import moex
from moex.cache.arc import ARC
from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.random import Random
from moex.sim.arrays import run
from moex.sim.simulator import simulate


@pytest.fixture
def long_enough(monkeypatch):
    """Treat a test's traces as long ones, and run what is compiled for them as it is."""
    monkeypatch.setattr(run, "WORTH_IT", 0)
    moex.curves(random_trace(0), LRU(), Belady(bypass=True))  # these loops are always compiled
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)


@pytest.mark.usefixtures("long_enough")
@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize(
    ("policy", "method"),
    [
        (LRU(), "stack"),
        (Belady(bypass=True), "stack"),
        (LFU(decay=0.9), "compiled"),
        (FIFO(), "compiled"),
        (Random(), "compiled"),
        (ARC(), "interpreted"),
    ],
    ids=repr,
)
def test_every_point_is_that_of_the_simulator(policy, method, pool):
    trace = random_trace(4, experts=7, tokens=20)
    (curve,) = moex.curves(trace, policy, pool=pool, cold=True, seed=3)
    assert set(curve.method) == {method}
    assert curve.slots.tolist() == [2, 3, 4, 5, 6, 7]
    for slots, hits, all_hits in zip(curve.slots, curve.hits, curve.all_hits, strict=True):
        cache = ExpertCache(policy, trace.geometry, int(slots), pool, None, 3, trace.future())
        report = simulate(trace, cache, cold=True)
        assert (hits, curve.requests) == (report.resident_hits, report.requests)
        assert all_hits / curve.visits == report.all_hit_rate


def test_capacities_and_phase_can_be_chosen():
    trace = random_trace(4, experts=7, tokens=20, prompt=3)
    (curve,) = moex.curves(trace, FIFO(), slots=[6, 3], phase="prefill")
    assert curve.slots.tolist() == [6, 3]
    report = simulate(trace, ExpertCache(FIFO(), trace.geometry, 3))
    assert curve.hits[1] == report.prefill_resident_hits
