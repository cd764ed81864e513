"""What a replay bills, visit by visit."""

from __future__ import annotations

import pytest
from traces import literal

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.variants.row_cache import RowCache
from moex.hardware.profile import HardwareProfile
from moex.prefetch.oracle import Oracle
from moex.sim.simulator import simulate

TRACE = literal([(0, (0, 1)), (0, (2, 3)), (0, (4, 5))])
FAST = 1e15


def replayed(hardware, prefetcher=None):
    cache = ExpertCache(LRU(), TRACE.geometry, 2, staging=6)
    return simulate(TRACE, cache, prefetcher, hardware)


@pytest.mark.parametrize("prefetcher", [None, Oracle()])
def test_every_expert_of_a_visit_is_computed_once(prefetcher):
    report = replayed(HardwareProfile("test", FAST, expert_s=1.0), prefetcher)
    assert report.decode_s == pytest.approx(6.0)


def test_a_visit_that_waits_for_a_late_guess_is_no_visit_without_a_wait():
    report = replayed(HardwareProfile("test", 100, visit_s=0.1), Oracle())
    assert (report.late_hits, report.all_hit_rate) == (4, 0.0)


def test_asking_the_prefetcher_is_billed_once_a_visit():
    report = replayed(HardwareProfile("test", FAST, predict_s=2.0), Oracle())
    assert report.decode_s == pytest.approx(6.0)


def test_selecting_neurons_is_billed_once_a_visit_and_thin_places_take_less():
    trace = literal([(0, (0, 1))] * 3)
    trace.rows = [[None, None]] * 3
    cache = RowCache(LRU(), trace.geometry, 2, staging=6, rows=0.5)
    report = simulate(trace, cache, None, HardwareProfile("test", FAST, select_s=2.0))
    assert report.decode_s == pytest.approx(6.0)
    assert report.capacity_bytes == (2 + 6) * trace.geometry.expert_bytes // 2
