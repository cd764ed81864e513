"""A visit that is abandoned after any of its plans loses no slot, whatever the policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_policies import CONFIGS, build

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.variants.row_cache import RowCache
from moex.miss.defer import Defer
from moex.types import DECODE, PREFILL, Access, Expert, Future, Geometry, Prediction

GEOMETRY = Geometry(3, 8, 2, 8, 16, 1600)


def visits(draw):
    """Random visits; what each is abandoned after: so many plans, or None."""
    experts = st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True)
    chosen = draw(st.lists(st.tuples(st.integers(0, 2), experts), min_size=1, max_size=20))
    return [
        Access(clock, clock, layer, DECODE if len(each) < 3 else PREFILL, tuple(each), (0.1,) * 8)
        for clock, (layer, each) in enumerate(chosen)
    ]


def all_slots_are_there(cache):
    layers = range(3) if cache.pool == "layer" else [0]
    residents = [cache.slot_of(e) for layer in layers for e in cache.residents(layer)]
    held, prefetched = cache.occupancy()
    assert len(residents) == len(set(residents)) == held
    in_flight = [
        cache.slot_of(Expert(layer, index))
        for layer in range(3)
        for index in range(8)
        if cache.holds(Expert(layer, index)) and Expert(layer, index) not in cache.residents(layer)
    ]
    assert len(in_flight) == prefetched
    assert len({*residents, *in_flight}) == held + prefetched


@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize("name", CONFIGS)
@given(data=st.data())
def test_slots_free_resident_and_in_flight_are_all_slots(name, pool, data):
    accesses = visits(data.draw)
    split = data.draw(st.sampled_from([None, Defer(1).split]))
    given = build(name), GEOMETRY, 3, pool, 5, 0, Future(accesses), split
    cache = ExpertCache(*given)
    abandoned = []
    for access in accesses:
        plans = cache.request(access)
        wanted = data.draw(st.integers(0, 4) | st.none())
        for number, plan in enumerate(plans):
            if plan.last:
                layer = (access.layer + 1) % 3
                said = [Prediction(Expert(layer, data.draw(st.integers(0, 7))), 1.0)]
                cache.prefetch(said, access.clock)
                displaced = data.draw(st.lists(st.integers(0, 7), max_size=3, unique=True))
                cache.admit([Expert(access.layer, index) for index in displaced], access)
            if number == wanted:
                abandoned.append(plans)  # as a traceback holds it that somebody keeps
                break
        all_slots_are_there(cache)
    whole = Access(99, 99, 1, PREFILL, tuple(range(8)), (0.1,) * 8)
    plans = list(cache.request(whole))
    assert sum(len(plan.hits) + len(plan.loads) for plan in plans) == 8
    cache.finish(99)
    all_slots_are_there(cache)


@given(data=st.data())
def test_rows_of_an_abandoned_visit_are_those_of_its_plans(data):
    accesses = visits(data.draw)
    rows = RowCache(LRU(), GEOMETRY, 3, staging=5, rows=0.25)
    held, abandoned = {}, []
    for access in accesses:
        needs = [data.draw(st.integers(1, (1 << 16) - 1)) for _ in access.experts]
        wanted = data.draw(st.integers(0, 4) | st.none())
        plans = rows.request(access, needs)
        for number, plan in enumerate(plans):
            for load in plan.loads:
                held[load.slot] = 0
            for load in plan.transfers:
                came = rows.full if load.rows is None else int.from_bytes(load.rows, "little")
                held[load.slot] = (held[load.slot] | came) & rows.held(load.expert)
                assert held[load.slot] == rows.held(load.expert)
            if number == wanted:
                abandoned.append(plans)
                break


class Raising(LRU):
    """An LRU that fails at one of its decisions."""

    def victim(self, candidates, now):
        if now.clock == 2:
            raise RuntimeError("no victim")
        return super().victim(candidates, now)


def test_a_policy_that_raised_leaves_an_empty_cache_and_all_slots():
    cache = ExpertCache(Raising(), GEOMETRY, 2, staging=5)
    list(cache.request(Access(0, 0, 0, DECODE, (0, 1))))
    list(cache.request(Access(1, 0, 1, DECODE, (4, 5))))
    with pytest.raises(RuntimeError, match="no victim"):
        list(cache.request(Access(2, 1, 0, DECODE, (2, 3))))
    (plan,) = cache.request(Access(3, 1, 1, DECODE, (4, 5)))
    assert [load.expert.index for load in plan.loads] == [4, 5]
    all_slots_are_there(cache)
