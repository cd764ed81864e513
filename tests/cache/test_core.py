"""The invariants of ExpertCache, over random models, visits, guesses and policies."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lru import LRU
from moex.cache.random import Random
from moex.cache.static import Static
from moex.types import DECODE, Access, Expert, Future, Geometry, Left, Prediction

LAYERS, EXPERTS, TOP_K = 2, 8, 2
GEOMETRY = Geometry(LAYERS, EXPERTS, TOP_K, 4, 4, 48)
POLICIES = {
    "lru": LRU(),
    "fifo": FIFO(),
    "random": Random(),
    "static": Static(calibration=3),
    "belady": Belady(),
    "bypass": Belady(bypass=True),
}


def visit(clock: int, *experts: int, layer: int = 0) -> Access:
    return Access(clock, clock, layer, DECODE, experts)


def cache_of(policy, slots: int, **memory) -> ExpertCache:
    return ExpertCache(policy, GEOMETRY, slots, **memory)


def names(*indices: int, layer: int = 0) -> list[Expert]:
    return [Expert(layer, index) for index in indices]


visits = st.lists(
    st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=EXPERTS, unique=True),
    min_size=1,
    max_size=40,
).map(lambda sets: [visit(n, *chosen, layer=n % LAYERS) for n, chosen in enumerate(sets)])
experts = st.builds(Expert, st.integers(0, LAYERS - 1), st.integers(0, EXPERTS - 1))
guesses = st.lists(st.lists(experts, max_size=4), min_size=40, max_size=40)
caches = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(sorted(POLICIES)),
        "slots": st.integers(TOP_K, EXPERTS),
        "pool": st.sampled_from(["layer", "global"]),
        "staging": st.integers(1, 6),
    }
)


@settings(max_examples=80, deadline=None)
@given(accesses=visits, guessed=guesses, setup=caches)
def test_every_invariant_holds_in_any_run(accesses, guessed, setup):
    policy = POLICIES[setup["policy"]]
    cache = cache_of(
        policy,
        setup["slots"],
        pool=setup["pool"],
        staging=setup["staging"],
        future=Future(accesses),
    )
    capacity = setup["slots"] * (LAYERS if setup["pool"] == "global" else 1)
    held: dict[Expert, int] = {}  # what a runner's slots hold, kept up from the plans alone
    waiting: set[Expert] = set()
    for access, row in zip(accesses, guessed, strict=False):
        demanded = names(*access.experts, layer=access.layer)
        served: list[Expert] = []
        before = set(held)
        waves = list(_played(cache, access, held, waiting))
        assert [plan.last for plan in waves] == [False] * (len(waves) - 1) + [True]
        for plan in waves:
            wave = [*plan.hits, *(load.expert for load in plan.loads)]
            served += wave
            assert set(plan.hits) <= before, "a hit was there before the visit"
            assert set(plan.guessed) <= set(plan.hits)
            assert plan is waves[0] or not plan.hits, "residents come in the first wave"
            if not policy.bypass:
                assert not {left.expert for left in plan.evictions} & set(demanded)
        assert sorted(served) == sorted(demanded), "each is served once: hits + loads = requested"
        plan = cache.prefetch([Prediction(expert, 1.0) for expert in row], access.clock)
        for load in plan.loads:
            assert load.speculative
            assert load.expert not in held
            assert load.slot not in held.values(), "a guess displaces nothing"
            held[load.expert] = load.slot
            waiting.add(load.expert)
        assert len(waiting) <= max(0, setup["staging"] - TOP_K)
        residents = cache.residents(access.layer)
        assert len(residents) <= capacity
        assert len(set(residents)) == len(residents)
        assert all(cache.place(expert) == place for expert, place in held.items())
        assert len(set(held.values())) == len(held) <= cache.places, "a place holds one expert"
    dropped = {left.expert for left in cache.finish(len(accesses)).dropped}
    assert dropped == waiting, "what was guessed and never used is dropped in the end"


def _played(cache, access, held, waiting):
    """Execute the plans of a visit as a runner does, checking places on the way."""
    for plan in cache.request(access):
        for left in plan.dropped:
            assert left.expert in waiting
            waiting.discard(left.expert)
            assert held.pop(left.expert) == left.slot
        assert [held[expert] for expert in plan.hits] == list(plan.places)
        waiting.difference_update(plan.guessed)
        in_use = set(plan.places)
        for load in plan.loads:
            assert load.slot not in in_use, "no load lands on what this wave reads"
            in_use.add(load.slot)
            held[load.expert] = load.slot
        for left in plan.evictions:
            assert held.pop(left.expert) == left.slot
        yield plan
        # Guesses and loads that were refused give their places back after the wave.
        residents = {*cache.residents(0), *cache.residents(1)}
        for expert in [*held]:
            if expert not in residents and expert not in waiting:
                del held[expert]


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
    guess = cache.prefetch([Prediction(Expert(0, 4), 1.0)], 0)
    assert [load.speculative for load in guess.loads] == [True]
    assert cache.residents(0) == names(0, 1)
    (plan,) = cache.request(visit(1, 0, 4))
    assert plan.guessed == (Expert(0, 4),)
    assert plan.loads == ()
    assert plan.places[1] == guess.loads[0].slot
    assert cache.residents(0) == names(0, 4)


def test_a_guess_whose_visit_passed_unused_is_dropped():
    cache = cache_of(LRU(), 2)
    (load,) = cache.prefetch([Prediction(Expert(1, 4), 1.0)], 0).loads
    (other,) = cache.request(visit(0, 0, 1, layer=0))
    assert other.dropped == ()
    (plan,) = cache.request(visit(1, 0, 1, layer=1))
    assert plan.dropped == (Left(Expert(1, 4), load.slot),)


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
        ({"slots": 1}, "memory.slots=1: expected 2"),
        ({"slots": 9}, "try memory.slots=4"),
        ({"staging": 0}, "memory.staging=0"),
        ({"policy": Belady()}, "must know the future"),
    ],
)
def test_wrong_memory_is_refused_with_the_way_out(wrong, said):
    with pytest.raises(ValueError, match=said):
        ExpertCache(**{"policy": LRU(), "geometry": GEOMETRY, "slots": 2, **wrong})


@given(accesses=visits)
def test_residents_are_listed_oldest_last_use_first(accesses):
    cache = cache_of(LRU(), 4, pool="global")
    last: dict[Expert, tuple[int, Expert]] = {}
    for access in accesses:
        list(cache.request(access))
        for expert in names(*access.experts, layer=access.layer):
            last[expert] = (access.clock, expert)
        order = [last[expert] for expert in cache.residents(0)]
        assert all(one < other for one, other in pairwise(order))
