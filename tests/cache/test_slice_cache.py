"""Which experts are resident, at which level, and what is loaded to bring them there."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.stats import CacheStats
from moex.cache.variants.slice_cache import ABSENT, HIGH, WHOLE, SliceCache, divide
from moex.miss.base import Split
from moex.testing.policies import GEOMETRY, _prefetches, _traces
from moex.types import DECODE, PREFILL, Access, Expert, Future, Prediction

SLICES = (224, 160)
SPANS = ((0, 224), (224, 384))


def by_draw(access: Access, seed: int = 1) -> list[int]:
    """Levels drawn at random, the same for the same visit; the first is never absent."""
    draw = Random(seed * 1000 + access.clock)
    return [draw.choice((HIGH, WHOLE)), *draw.choices((ABSENT, HIGH, WHOLE), k=99)][
        : len(access.experts)
    ]


def split_by(levels, access, missing, room):
    asked = dict(zip(access.experts, levels(access), strict=True))
    kept = [expert for expert in missing if asked[expert.index] != ABSENT]
    return Split(kept, (), [expert for expert in missing if expert not in kept])


def whole(access: Access) -> list[int]:
    return [WHOLE] * len(access.experts)


def make(levels=by_draw, slots=5, pool="layer", share=0.5, policy=None, future=None):
    given = policy or LRU(), GEOMETRY, slots, pool, None, 7, future, partial(split_by, levels)
    return SliceCache(*given, slices=SLICES, levels=levels, whole=share)


def visit(clock: int, *experts: int, layer: int = 0, phase: str = DECODE) -> Access:
    return Access(clock, clock, layer, phase, experts)


@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("slots", [3, 5, 9, 12])
def test_both_kinds_of_slots_take_the_bytes_of_whole_experts_at_most(pool, share, slots):
    cache, plain = make(pool=pool, share=share, slots=slots), ExpertCache(LRU(), GEOMETRY, slots)
    most, least = plain.capacity_bytes, plain.capacity_bytes - GEOMETRY.layers * sum(SLICES)
    every = cache.slots * GEOMETRY.layers
    assert cache.capacity_bytes <= most
    assert cache.capacity_bytes > least or cache.slots == GEOMETRY.experts
    assert cache.slots >= slots == cache.whole_slots
    assert cache.low_slots >= share * every
    assert cache.low_slots <= cache.total_slots


def test_the_less_of_the_residents_are_whole_the_more_there_are():
    sizes = GEOMETRY, 5, "layer", 6, SLICES
    residents = [divide(*sizes, share)[0] for share in (0.0, 0.25, 0.5, 1.0)]
    assert residents == sorted(residents, reverse=True)
    assert residents[0] > residents[-1] >= 5
    with pytest.raises(ValueError, match=r"^miss.whole=2: expected .* try miss.whole=0.5$"):
        divide(*sizes, 2)


@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize("name", sorted(_traces()))
@pytest.mark.parametrize("bypass", [False, True])
def test_slots_slices_and_levels_agree_after_every_plan(pool, name, bypass):
    trace = _traces()[name]
    policy = Belady(bypass=True) if bypass else LRU()
    cache = make(pool=pool, policy=policy, future=Future(trace))
    held: dict[int, tuple[Expert, int]] = {}
    for access in trace:
        levels = by_draw(access) if access.phase == DECODE else whole(access)
        asked = dict(zip(access.experts, levels, strict=True))
        served, bytes_wanted = set(), 0
        for plan in cache.request(access):
            low = dict(plan.low)
            members = {*plan.hits, *(load.expert for load in plan.loads)}
            for load in plan.transfers:
                part = int(load.slot >= cache.total_slots)
                assert load.span == SPANS[part]
                held[load.slot] = (load.expert, part)
            at = dict(zip(plan.hits, plan.slots, strict=True))
            at |= {load.expert: load.slot for load in plan.loads}
            for expert in members:
                assert held[at[expert]] == (expert, 0)
                assert expert in low or asked[expert.index] != WHOLE
                assert expert not in low or held[low[expert]] == (expert, 1)
            order = [expert for expert, *_ in [*plan.residents, *plan.arrivals]]
            assert sorted(order) == sorted(members), "each is computed once"
            late = {load.expert for load in plan.fills}
            assert {*plan.partial} == late & {*plan.hits}
            assert len({*cache._low.values()}) == len(cache._low) <= cache.low_slots
            bytes_wanted += plan.wanted
            served |= members | {*plan.skipped}
            if plan.last:
                loads = cache.prefetch(list(_prefetches(access)), access.clock).loads
                assert all(load.span == SPANS[0] and load.rows is None for load in loads)
                held |= {load.slot: (load.expert, 0) for load in loads}
        assert served == {Expert(access.layer, index) for index in access.experts}
        assert bytes_wanted == sum((0, SLICES[0], 384)[level] for level in levels)
        cache._forget_bypassed()
        assert all(cache.level(expert) == WHOLE for expert in cache._low)
        assert all(cache.holds(expert) for expert in cache._low)
    assert all(gone.span == SPANS[0] for gone in cache.finish(len(trace)).dropped)


def test_which_experts_are_resident_is_decided_as_without_slices():
    for name, trace in _traces().items():
        cache = make(whole)
        plain = ExpertCache(LRU(), GEOMETRY, cache.slots, seed=7)
        for access in trace:
            ours = [(plan.hits, plan.evictions) for plan in cache.request(access)]
            assert ours == [(plan.hits, plan.evictions) for plan in plain.request(access)], name


def test_a_resident_in_few_bits_loads_its_low_slice_when_it_is_wanted_whole():
    asked = {0: [HIGH, HIGH, HIGH], 1: [WHOLE, HIGH, HIGH], 2: [HIGH, HIGH, HIGH]}
    cache, stats = make(lambda access: asked[access.clock]), CacheStats(GEOMETRY)
    plans = [plan for clock in asked for plan in cache.request(visit(clock, 0, 1, 2))]
    for plan in plans:
        stats.demand(DECODE, plan)
    assert [load.span for load in plans[0].transfers] == [SPANS[0]] * 3
    assert (plans[1].loads, plans[1].partial) == ((), (Expert(0, 0),))
    assert [(load.expert, load.span) for load in plans[1].fills] == [(Expert(0, 0), SPANS[1])]
    assert plans[1].arrivals == [(Expert(0, 0), plans[0].loads[0].slot, False)]
    assert [expert for expert, _ in plans[1].residents] == [Expert(0, 1), Expert(0, 2)]
    assert plans[2].transfers == ()
    assert plans[2].low == plans[1].low, "what is resident is computed with"
    counts = stats.phases[DECODE]
    assert (counts.demand_misses, counts.partial_hits, counts.resident_hits) == (3, 1, 5)
    assert counts.bytes_demand == 3 * 224 + 160
    assert counts.bytes_wanted == 8 * 224 + 384


def test_the_low_slice_asked_for_longest_ago_leaves_first():
    cache, clock = make(whole, slots=3, share=0.0), 0
    while cache._free_low:
        first = 3 * (clock // GEOMETRY.layers) % 6
        layer = clock % GEOMETRY.layers
        list(cache.request(visit(clock, first, first + 1, first + 2, layer=layer)))
        clock += 1
    assert cache.slots > 3, "there is room for more high slices than for wholes"
    oldest, *others = cache._low
    other = (oldest.layer + 1) % GEOMETRY.layers
    list(cache.request(visit(clock, 9, layer=other)))
    assert cache.level(oldest) == HIGH, "its high slice stays"
    assert all(cache.level(expert) == WHOLE for expert in others if expert.layer != other)


def test_prompts_ask_for_whole_experts_whatever_their_scores():
    cache = make(lambda access: [HIGH] * len(access.experts))
    for plan in cache.request(visit(0, *range(12), phase=PREFILL)):
        assert {expert for expert, _ in plan.low} == {load.expert for load in plan.loads}


def test_an_absent_expert_that_is_not_asked_for_is_skipped_and_a_resident_one_is_not():
    asked = {0: [WHOLE, HIGH, ABSENT], 1: [WHOLE, ABSENT, HIGH]}
    cache = make(lambda access: asked[access.clock])
    first, second = (next(iter(cache.request(visit(clock, 0, 1, 2)))) for clock in asked)
    assert first.skipped == (Expert(0, 2),)
    assert second.hits == (Expert(0, 0), Expert(0, 1))
    assert second.skipped == ()
    assert second.wanted == 384 + 224


def test_a_visit_that_is_given_up_leaves_no_slice_behind():
    trace = _traces()["prefill"]
    for given_up in range(0, len(trace), 7):
        cache = make(policy=Belady(bypass=True), future=Future(trace))
        for access in trace[: given_up + 30]:
            plans = cache.request(access)
            next(plans)
            if access.clock == given_up:
                plans.close()
            list(plans)
        cache._forget_bypassed()
        slots = [*cache._low.values(), *cache._free_low]
        low = range(cache.total_slots, cache.total_slots + cache.low_slots)
        assert sorted(slots) == [*low]
        assert all(cache.holds(expert) for expert in cache._low)


def test_a_policy_that_fails_leaves_an_empty_cache():
    class Broken(LRU):
        def on_insert(self, expert, now):
            if now.clock == 5:
                raise RuntimeError("broken")

    cache = make(whole, policy=Broken())
    for clock in range(5):
        list(cache.request(visit(clock, 0, 1, 2)))
    with pytest.raises(RuntimeError, match="broken"):
        list(cache.request(visit(5, 9, 10, 11)))
    plan = next(iter(cache.request(visit(6, 0, 1, 2))))
    assert len(plan.loads) == len(plan.fills) == 3


def test_a_prefetched_high_slice_is_used_at_its_own_level():
    cache = make(lambda access: [HIGH] * len(access.experts))
    issued = cache.prefetch([Prediction(Expert(0, 4), 1.0)], 0)
    plan = next(iter(cache.request(visit(0, 4, 5, 6))))
    assert plan.prefetched == (Expert(0, 4),)
    assert plan.arrivals[0] == (Expert(0, 4), issued.loads[0].slot, True)
    stats = CacheStats(GEOMETRY)
    stats.prefetch(DECODE, issued)
    stats.demand(DECODE, plan)
    assert stats.phases[DECODE].bytes_prefetch == 224
