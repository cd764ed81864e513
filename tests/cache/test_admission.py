"""Experts that are loaded in the background: admitted by the policy, and resident from then on."""

from __future__ import annotations

import pytest

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.mru import MRU
from moex.cache.none import NoCache
from moex.cache.variants.row_cache import RowCache
from moex.types import DECODE, Access, Expert, Future, Geometry

GEOMETRY = Geometry(2, 6, 2, 8, 8, expert_bytes=800)


def access(clock, layer, *experts):
    return Access(clock, clock, layer, DECODE, experts)


def visited(cache, *visits):
    for each in visits:
        needs = [None] * len(each.experts) if cache.by_rows else ()
        list(cache.request(each, needs))
    return visits[-1]


def admitted(cache, last, *indices):
    plan = cache.admit([Expert(last.layer, index) for index in indices], last)
    assert all(load.speculative for load in plan.loads)
    return [load.expert.index for load in plan.loads], [each.expert for each in plan.evictions]


@pytest.mark.parametrize(("policy", "victim"), [(LRU(), 0), (MRU(), 1), (LFU(), 0)], ids=repr)
def test_the_policy_chooses_the_victim_and_the_expert_stays(policy, victim):
    cache = ExpertCache(policy, GEOMETRY, 4)
    last = visited(cache, access(0, 0, 0, 1), access(1, 0, 1, 2), access(2, 0, 2, 3))
    assert admitted(cache, last, 5) == ([5], [Expert(0, victim)])
    visited(cache, access(3, 1, 0, 1))
    (plan,) = cache.request(access(4, 0, 5, 3))
    assert (plan.hits, plan.prefetched, plan.loads) == ((Expert(0, 5), Expert(0, 3)), (), ())


def test_no_member_of_the_running_visit_is_a_victim():
    visits = access(0, 0, 0, 1), access(1, 1, 0, 1)
    cache = ExpertCache(LRU(), GEOMETRY, 2, "layer")
    assert admitted(cache, visited(cache, *visits), 2) == ([], [])
    cache = ExpertCache(LRU(), GEOMETRY, 2, "global")
    assert admitted(cache, visited(cache, *visits), 2, 3, 4) == ([2, 3], [(0, 0), (0, 1)])


def test_what_the_policy_does_not_admit_is_not_loaded():
    visits = access(0, 0, 0, 1), access(1, 0, 0, 1), access(2, 0, 0, 5)
    cache = ExpertCache(NoCache(), GEOMETRY, 2)
    assert admitted(cache, visited(cache, *visits[:2]), 5) == ([], [])
    assert cache.occupancy() == (0, 0)
    cache = ExpertCache(Belady(bypass=True), GEOMETRY, 3, future=Future(visits))
    last = visited(cache, access(0, 0, 0, 1))
    assert admitted(cache, last, 5) == ([5], [])
    assert admitted(cache, last, 4) == ([], []), "needed later than all residents"


def test_two_of_one_visit_do_not_evict_each_other():
    cache = ExpertCache(LRU(), GEOMETRY, 3)
    last = visited(cache, access(0, 0, 0, 1), access(1, 0, 1, 2))
    assert admitted(cache, last, 4, 5, 1) == ([4], [Expert(0, 0)])
    assert cache.residents(0) == [Expert(0, 4), Expert(0, 1), Expert(0, 2)]


def test_as_many_rows_as_a_slot_holds_are_loaded():
    cache = RowCache(LRU(), GEOMETRY, 3, rows=0.5)
    last = visited(cache, access(0, 0, 0, 1))
    plan = cache.admit([Expert(0, 5)], last)
    assert cache.held(Expert(0, 5)).bit_count() == 4
    assert (plan.loads[0].rows, plan.held) == (bytes([15]), (15,))
