"""The invariants of ExpertCache, over random models, visits, prefetches and policies."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from traces import names, visit

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lru import LRU
from moex.cache.random import Random
from moex.cache.static import Static
from moex.types import Expert, Future, Geometry, Prediction

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


visits = st.lists(
    st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=EXPERTS, unique=True),
    min_size=1,
    max_size=40,
).map(lambda sets: [visit(n, *chosen, layer=n % LAYERS) for n, chosen in enumerate(sets)])
experts = st.builds(Expert, st.integers(0, LAYERS - 1), st.integers(0, EXPERTS - 1))
prefetches = st.lists(st.lists(experts, max_size=4), min_size=40, max_size=40)
caches = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(sorted(POLICIES)),
        "slots": st.integers(TOP_K, EXPERTS),
        "pool": st.sampled_from(["layer", "global"]),
        "staging": st.integers(1, 6),
    }
)


@settings(max_examples=80, deadline=None)
@given(accesses=visits, prefetched=prefetches, setup=caches)
def test_every_invariant_holds_in_any_run(accesses, prefetched, setup):
    policy = POLICIES[setup["policy"]]
    cache = ExpertCache(
        policy,
        GEOMETRY,
        setup["slots"],
        pool=setup["pool"],
        staging=setup["staging"],
        future=Future(accesses),
    )
    capacity = setup["slots"] * (LAYERS if setup["pool"] == "global" else 1)
    held: dict[Expert, int] = {}  # what a runner's slots hold, kept up from the plans alone
    waiting: set[Expert] = set()
    for access, row in zip(accesses, prefetched, strict=False):
        demanded = names(*access.experts, layer=access.layer)
        served: list[Expert] = []
        before = set(held)
        waves = list(_played(cache, access, held, waiting))
        assert [plan.last for plan in waves] == [False] * (len(waves) - 1) + [True]
        for plan in waves:
            wave = [*plan.hits, *(load.expert for load in plan.loads)]
            served += wave
            assert set(plan.hits) <= before, "a hit was there before the visit"
            assert set(plan.prefetched) <= set(plan.hits)
            assert plan is waves[0] or not plan.hits, "residents come in the first wave"
            if not policy.bypass:
                assert not {left.expert for left in plan.evictions} & set(demanded)
        assert sorted(served) == sorted(demanded), "each is served once: hits + loads = requested"
        plan = cache.prefetch([Prediction(expert, 1.0) for expert in row], access.clock)
        for load in plan.loads:
            assert load.speculative
            assert load.expert not in held
            assert load.slot not in held.values(), "a prefetch displaces nothing"
            held[load.expert] = load.slot
            waiting.add(load.expert)
        assert len(waiting) <= max(0, setup["staging"] - TOP_K)
        residents = cache.residents(access.layer)
        assert len(residents) <= capacity
        assert len(set(residents)) == len(residents)
        assert all(cache.slot_of(expert) == slot for expert, slot in held.items())
        assert len(set(held.values())) == len(held) <= cache.total_slots, "a place holds one expert"
    dropped = {left.expert for left in cache.finish(len(accesses)).dropped}
    assert dropped == waiting, "what was prefetched and never used is dropped in the end"


def _played(cache, access, held, waiting):
    """Execute the plans of a visit as a runner does, checking places on the way."""
    for plan in cache.request(access):
        for left in plan.dropped:
            assert left.expert in waiting
            waiting.discard(left.expert)
            assert held.pop(left.expert) == left.slot
        assert [held[expert] for expert in plan.hits] == list(plan.slots)
        waiting.difference_update(plan.prefetched)
        in_use = set(plan.slots)
        for load in plan.loads:
            assert load.slot not in in_use, "no load lands on what this wave reads"
            in_use.add(load.slot)
            held[load.expert] = load.slot
        for left in plan.evictions:
            assert held.pop(left.expert) == left.slot
        yield plan
        # Prefetches and loads that were refused free their slots after the wave.
        residents = {*cache.residents(0), *cache.residents(1)}
        for expert in [*held]:
            if expert not in residents and expert not in waiting:
                del held[expert]


@given(accesses=visits)
def test_residents_are_listed_oldest_last_use_first(accesses):
    cache = ExpertCache(LRU(), GEOMETRY, 4, pool="global")
    last: dict[Expert, tuple[int, Expert]] = {}
    for access in accesses:
        list(cache.request(access))
        for expert in names(*access.experts, layer=access.layer):
            last[expert] = (access.clock, expert)
        order = [last[expert] for expert in cache.residents(0)]
        assert all(one < other for one, other in pairwise(order))
