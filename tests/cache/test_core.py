"""ExpertCache by example: what enters and is evicted, the waves, and what prefetches may do."""

from __future__ import annotations

import random

import pytest
from traces import names, visit

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lru import LRU
from moex.cache.none import NoCache
from moex.cache.random import Random
from moex.cache.static import Static
from moex.types import Eviction, Expert, Future, Geometry, Prediction

LAYERS, EXPERTS, TOP_K = 2, 8, 2
GEOMETRY = Geometry(LAYERS, EXPERTS, TOP_K, 4, 4, 48)


def cache_of(policy, slots: int, **memory) -> ExpertCache:
    return ExpertCache(policy, GEOMETRY, slots, **memory)


def test_the_set_is_classified_before_anybody_leaves():
    cache = cache_of(LRU(), 2)
    list(cache.request(visit(0, 0, 1)))
    (plan,) = cache.request(visit(1, 2, 0))
    assert plan.hits == (Expert(0, 0),)
    assert [load.expert for load in plan.loads] == names(2)
    assert [left.expert for left in plan.evictions] == names(1)


def test_members_of_one_visit_tie_and_the_lowest_index_leaves_first():
    cache = cache_of(LRU(), 3)
    list(cache.request(visit(0, 5, 1)))
    (plan,) = cache.request(visit(1, 3, 2))
    assert [left.expert for left in plan.evictions] == names(1)


def test_a_place_freed_longest_ago_is_reused_first():
    cache = cache_of(LRU(), 2, staging=4)
    loads = [load.slot for load in next(cache.request(visit(0, 0, 1))).loads]
    assert loads == [0, 1]
    assert [load.slot for load in next(cache.request(visit(1, 2, 3))).loads] == [2, 3]


def test_the_place_of_a_refused_expert_is_reused_last():
    cache = cache_of(NoCache(), 2, staging=4)
    list(cache.request(visit(0, 0, 1)))
    assert [load.slot for load in next(cache.request(visit(1, 2, 3))).loads] == [2, 3]


def test_guesses_and_loads_enter_in_the_order_of_the_visit():
    cache = cache_of(FIFO(), 2)
    cache.prefetch([Prediction(Expert(0, 4), 1.0)], 0)
    list(cache.request(visit(0, 4, 2)))
    (plan,) = cache.request(visit(1, 2, 6))
    assert [left.expert for left in plan.evictions] == names(4)


def test_the_split_hears_how_many_slots_are_empty_beside_the_visits_own():
    rooms = []

    def fetch_all(access, missing, room):
        rooms.append(room)
        return missing, (), ()

    cache = cache_of(LRU(), 3, split=fetch_all)
    for access in (visit(0, 0, 1), visit(1, 0, 2), visit(2, 0, 3)):
        list(cache.request(access))
    assert rooms == [3, 1, 0]


def test_the_place_of_a_member_that_leaves_is_not_given_away_while_it_is_read():
    visits = [visit(0, 0, 1), visit(1, 0, 2, 3, 4), visit(2, 1, 2)]
    one = GEOMETRY._replace(layers=1)
    cache = ExpertCache(Belady(bypass=True), one, 2, staging=3, future=Future(visits))
    list(cache.request(visits[0]))
    waves = cache.request(visits[1])
    plan = next(waves)
    assert [left.expert for left in plan.evictions] == names(0)
    assert len(plan.loads) == 3
    prefetch = [Prediction(Expert(0, 5), 1.0)]
    assert cache.prefetch(prefetch, 1).loads == ()
    assert list(waves) == []
    assert len(cache.prefetch(prefetch, 1).loads) == 1


def test_more_experts_than_places_come_in_waves_residents_first():
    cache = cache_of(LRU(), 2, staging=2)
    list(cache.request(visit(0, 6, 7)))
    waves = list(cache.request(visit(1, 0, 1, 2, 6, 3, 4, 5)))
    assert waves[0].hits == (Expert(0, 6),)
    assert [len(plan.loads) for plan in waves] == [4, 2]
    assert [plan.last for plan in waves] == [False, True]


def test_waves_without_spare_slots_pass_through_staging():
    small = Geometry(1, EXPERTS, TOP_K, 4, 4, 48)
    cache = ExpertCache(LRU(), small, TOP_K, staging=1)
    waves = list(cache.request(visit(0, *range(EXPERTS))))
    assert sum(len(plan.loads) for plan in waves) == EXPERTS
    assert cache.residents(0) == names(0, 1)
    assert all(len(plan.loads) == 1 for plan in waves[1:])


def test_a_guess_enters_a_slot_only_when_used():
    cache = cache_of(LRU(), 2)
    list(cache.request(visit(0, 0, 1)))
    prefetch = cache.prefetch([Prediction(Expert(0, 4), 1.0)], 0)
    assert [load.speculative for load in prefetch.loads] == [True]
    assert cache.residents(0) == names(0, 1)
    (plan,) = cache.request(visit(1, 0, 4))
    assert plan.prefetched == (Expert(0, 4),)
    assert plan.loads == ()
    assert plan.slots[1] == prefetch.loads[0].slot
    assert cache.residents(0) == names(0, 4)


def test_a_guess_whose_visit_passed_unused_is_dropped():
    cache = cache_of(LRU(), 2)
    (load,) = cache.prefetch([Prediction(Expert(1, 4), 1.0)], 0).loads
    (other,) = cache.request(visit(0, 0, 1, layer=0))
    assert other.dropped == ()
    (plan,) = cache.request(visit(1, 0, 1, layer=1))
    assert plan.dropped == (Eviction(Expert(1, 4), load.slot),)


def test_residents_and_guesses_are_not_fetched_again():
    cache = cache_of(LRU(), 2)
    list(cache.request(visit(0, 0, 1)))
    first = cache.prefetch([Prediction(e, 1.0) for e in names(0, 5)], 0)
    second = cache.prefetch([Prediction(e, 1.0) for e in names(5, 6)], 0)
    assert [load.expert for load in first.loads] == names(5)
    assert [load.expert for load in second.loads] == names(6)


def test_guesses_leave_top_k_places_to_demand():
    cache = cache_of(LRU(), 2, staging=3)
    plan = cache.prefetch([Prediction(e, 1.0) for e in names(4, 5, 6)], 0)
    assert [load.expert for load in plan.loads] == names(4), "best first, one place is spare"


def test_demand_drops_the_latest_guesses_for_other_layers_to_make_room():
    cache = cache_of(LRU(), 2, staging=6)
    for clock in (0, 1):
        list(cache.request(visit(clock, 0, 1, layer=clock)))
    cache.prefetch([Prediction(e, 1.0) for e in names(4, 5, 6, 7, layer=1)], 1)
    waves = list(cache.request(visit(2, 2, 3, 4, 5, layer=0)))
    assert [left.expert for left in waves[0].dropped] == names(7, 6, layer=1)
    assert len(waves) == 1


def test_a_refused_expert_is_used_and_dropped():
    cache = cache_of(Static([[0, 0, 9, 9, 0, 0, 0, 0]] * LAYERS), 2)
    (plan,) = cache.request(visit(0, 0, 2))
    assert [load.expert for load in plan.loads] == names(0, 2)
    assert cache.residents(0) == names(2)


def test_bypass_lets_what_was_just_used_leave_at_once():
    accesses = [visit(0, 0, 1), visit(1, 2, 3), visit(2, 0, 1)]
    forced, bypassing = (
        sum(len(plan.loads) for access in accesses for plan in cache.request(access))
        for cache in (
            cache_of(Belady(bypass=bypass), 2, future=Future(accesses)) for bypass in (False, True)
        )
    )
    assert (forced, bypassing) == (6, 4)


def test_finish_drops_what_is_still_waiting_and_gives_the_places_back():
    cache = cache_of(LRU(), 2)
    cache.prefetch([Prediction(Expert(0, 4), 1.0)], 0)
    assert [left.expert for left in cache.finish(1).dropped] == names(4)
    assert cache.finish(2).dropped == ()


def test_pools_per_layer_are_apart_and_a_global_one_is_shared():
    for pool, kept in (("layer", 2), ("global", 4)):
        cache = cache_of(LRU(), 2, pool=pool)
        for clock in range(3):
            list(cache.request(visit(clock, 2 * clock, 2 * clock + 1)))
        assert len(cache.residents(0)) == kept


def test_reset_forgets_everything():
    cache = cache_of(Random(), 2, seed=3)
    accesses = [visit(n, *random.Random(n).sample(range(EXPERTS), 2)) for n in range(20)]
    runs = []
    for _ in range(2):
        runs.append([plan for access in accesses for plan in cache.request(access)])
        cache.prefetch([Prediction(Expert(1, 1), 1.0)], 20)
        cache.reset()
    assert runs[0] == runs[1]
    assert cache.residents(0) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pool": "both"}, "memory.pool='both'"),
        ({"slots": -1}, "memory.slots=-1: expected 0"),
        ({"slots": [2]}, "a list of 1, for a model of 2 MoE layers; .* try memory.slots=4"),
        ({"slots": [2, 9]}, "memory.slots=9: expected 0"),
        ({"slots": [2, 2], "pool": "global"}, "try memory.pool=layer"),
        ({"slots": 9}, "try memory.slots=4"),
        ({"staging": 0}, "memory.staging=0"),
        ({"staging": 10**9}, "at most 16 .* try memory.staging=4"),
        ({"geometry": GEOMETRY._replace(top_k=0)}, "geometry: top_k=0; expected a whole number 1"),
        ({"geometry": GEOMETRY._replace(expert_bytes=0)}, "geometry: expert_bytes=0; expected"),
        ({"policy": Belady()}, "needs the future of the run"),
    ],
)
def test_wrong_memory_is_refused_with_the_way_out(wrong, said):
    with pytest.raises(ValueError, match=said):
        ExpertCache(**{"policy": LRU(), "geometry": GEOMETRY, "slots": 2, **wrong})


def test_a_load_is_stale_once_its_slot_is_dropped_or_loaded_anew():
    cache = cache_of(LRU(), 2, staging=4)
    (early,) = cache.prefetch([Prediction(Expert(0, 4), 1.0)], 0).loads
    (plan,) = cache.request(visit(1, 0, 1))
    assert [gone.slot for gone in plan.dropped] == [early.slot]
    assert plan.stale == [early.slot, *(load.slot for load in plan.loads)]
    assert plan._replace(loads=(), dropped=(), fills=plan.loads).stale == []
