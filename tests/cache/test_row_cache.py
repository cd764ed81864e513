"""Which rows are held beside which experts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.cache.stats import CacheStats
from moex.cache.variants.resident_rows import bitmap, lowest
from moex.cache.variants.row_cache import RowCache
from moex.decisions.decisions import Decisions
from moex.hardware.profile import HardwareProfile
from moex.testing.policies import GEOMETRY, _prefetches, _traces
from moex.types import DECODE, Access, Eviction, Expert, Plan, Prediction

WIDTH = GEOMETRY.intermediate
FULL = (1 << WIDTH) - 1


def rows(*members: int) -> bytes:
    return sum(1 << member for member in members).to_bytes(1, "little")


def plans(residency, request) -> list[Plan]:
    """Every plan of a trace; `request` asks the cache for a visit."""
    found = []
    for access in TRACE:
        for plan in request(access):
            found.append(plan)
            if plan.last:
                found.append(residency.prefetch(list(_prefetches(access)), access.clock))
    return [*found, residency.finish(len(TRACE) - 1)]


TRACE = _traces()["prefill"]


@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize("name", ["scan", "uniform", "prefill"])
def test_whole_places_and_all_rows_are_the_plain_cache_plan_for_plan(pool, name, monkeypatch):
    monkeypatch.setitem(globals(), "TRACE", _traces()[name])
    plain = ExpertCache(LRU(), GEOMETRY, 5, pool)
    residency = RowCache(LRU(), GEOMETRY, 5, pool)
    expected = plans(plain, plain.request)
    found = plans(residency, lambda a: residency.request(a, [None] * len(a.experts)))
    assert [plan._replace(computed=()) for plan in found] == expected
    assert {rows for plan in found for _, rows in plan.computed} == {FULL}


def test_an_evicted_expert_holds_no_rows_that_a_prefetch_could_fill_up():
    cache = RowCache(LRU(), GEOMETRY, GEOMETRY.top_k, staging=GEOMETRY.top_k)
    first, *others = range(1 + GEOMETRY.top_k)
    for clock, experts in enumerate([(first,), tuple(others)]):
        list(cache.request(Access(clock, clock, 0, DECODE, experts), [FULL] * len(experts)))
    assert not cache.holds(Expert(0, first))
    assert cache.held(Expert(0, first)) == 0
    assert cache.prefetch([Prediction(Expert(0, first), 1.0, rows(1))], 1) == Plan(1)


@settings(max_examples=30)
@given(
    share=st.sampled_from([1.0, 0.75, 0.5, 0.25, 0.1]),
    break_even=st.sampled_from([1.0, 0.5]),
    pool=st.sampled_from(["layer", "global"]),
    seed=st.integers(0, 1000),
)
def test_what_is_computed_is_there_and_places_are_never_overfull(share, break_even, pool, seed):
    draws = Random(seed)
    hot = {Expert(0, index): draws.getrandbits(WIDTH) for index in range(6)}
    residency = RowCache(LRU(), GEOMETRY, 4, pool, rows=share, break_even=break_even, hot=hot)
    there: dict[int, tuple[Expert, int]] = {}
    """What a device would hold: by place, whose rows and which."""

    def move(plan: Plan) -> None:
        thin = residency.thin
        holding = plan.held if thin else [residency.held(load.expert) for load in plan.transfers]
        for load, held in zip(plan.transfers, holding, strict=True):
            assert held.bit_count() <= residency.capacity
            expert, before = there.get(load.slot, (None, 0))
            moved = FULL if load.rows is None else bitmap(load.rows)
            kept = before & held if expert == load.expert else 0
            there[load.slot] = load.expert, kept | (moved & held)
            assert there[load.slot][1] == held

    for access in TRACE:
        needs = [draws.choice([None, draws.getrandbits(WIDTH)]) for _ in access.experts]
        wanted = dict(zip(access.experts, needs, strict=True))
        computed = dict.fromkeys(access.experts, 0)
        for plan in residency.request(access, needs):
            slots = dict(zip(plan.hits, plan.slots, strict=True))
            slots |= {load.expert: load.slot for load in plan.transfers}
            move(plan)
            prefetches = list(_prefetches(access))
            if plan.last:
                chosen = [p._replace(rows=bytes([draws.getrandbits(WIDTH)])) for p in prefetches]
                move(
                    residency.prefetch(chosen if draws.random() < 0.5 else prefetches, access.clock)
                )
            for expert, part in plan.computed:
                owner, held = there[slots[expert]]
                assert owner == expert
                assert part & ~held == 0
                computed[expert.index] |= part
        for index, done in computed.items():
            need = FULL if wanted[index] is None else wanted[index]
            assert done & need == need


def test_a_resident_is_filled_up_and_the_oldest_rows_leave():
    residency = RowCache(LRU(), GEOMETRY, 3, rows=0.5)
    expert = Expert(0, 0)

    def visit(clock: int, wanted: int) -> Plan:
        access = Access(clock, clock, 0, DECODE, (0, 1, 2))
        (plan,) = residency.request(access, [wanted, 1, 1])
        return plan

    assert visit(0, 0b00000111).loads[0].rows == rows(0, 1, 2)
    second = visit(1, 0b00001001)
    assert second.hits[0] == expert
    assert [fill.rows for fill in second.fills] == [rows(3)]
    third = visit(2, 0b00110000)  # rows 1 and 2 were used longest ago
    assert [fill.rows for fill in third.fills] == [rows(4, 5)]
    assert residency.held(expert) == 0b00111001
    assert visit(3, 0b00111001).fills == ()


def test_hot_rows_leave_last():
    expert = Expert(0, 0)
    residency = RowCache(LRU(), GEOMETRY, 3, rows=0.5, hot={expert: 0b11})
    for clock, wanted in enumerate((0b11, 0b1100, 0b110000, 0b11000000)):
        access = Access(clock, clock, 0, DECODE, (0, 1, 2))
        list(residency.request(access, [wanted, 1, 1]))
        assert residency.held(expert) & 0b11 == 0b11
    assert residency.held(expert) == 0b11000011


def test_rows_that_came_early_are_a_hit_in_part_or_wasted():
    residency = RowCache(LRU(), GEOMETRY, 3)
    prefetches = [Prediction(Expert(1, 5), 1.0, rows(0, 1)), Prediction(Expert(1, 6), 0.5, rows(2))]
    plan = residency.prefetch(prefetches, 0)
    assert [load.rows for load in plan.loads] == [rows(0, 1), rows(2)]
    access = Access(1, 0, 1, DECODE, (5, 7, 8))
    (visit,) = residency.request(access, [0b110, 1, 1])
    assert visit.prefetched == (Expert(1, 5),)
    assert [(fill.expert, fill.rows) for fill in visit.fills] == [(Expert(1, 5), rows(2))]
    assert [(left.expert, left.rows) for left in visit.dropped] == [(Expert(1, 6), rows(2))]
    assert [(left.expert, left.rows) for left in visit.unused] == [(Expert(1, 5), rows(0))]


def test_above_break_even_the_whole_expert_is_moved():
    residency = RowCache(LRU(), GEOMETRY, 3, break_even=0.5)
    (plan,) = residency.request(Access(0, 0, 0, DECODE, (0, 1, 2)), [0b1111, 0b111, 1])
    assert [load.rows for load in plan.loads] == [None, rows(0, 1, 2), rows(0)]
    assert residency.held(Expert(0, 0)) == FULL


@given(st.integers(0, 2**70), st.integers(0, 70))
def test_the_lowest_members(members, count):
    assert [bit for bit in range(71) if lowest(members, count) >> bit & 1] == [
        bit for bit in range(71) if members >> bit & 1
    ][:count]


@pytest.mark.parametrize("field", ["rows", "break_even"])
def test_a_share_outside_its_range_is_refused(field):
    with pytest.raises(ValueError, match=rf"memory.{field}=1.5: expected a share in \(0, 1\]"):
        RowCache(LRU(), GEOMETRY, 3, **{field: 1.5})


def test_the_break_even_is_the_setting_s_else_the_profile_s_for_the_store():
    measured = HardwareProfile(break_even={"disk": 0.4})

    def found(store: str, **memory: float) -> float:
        decisions = Decisions(LRU(), Memory(3, **memory), neurons=0.0, store=store)
        return decisions.build(GEOMETRY, measured).break_even

    assert found("disk") == 0.4
    assert found("ram") == 1.0
    assert found("disk", break_even=0.7) == 0.7
    with pytest.raises(ValueError, match=r"hardware.break_even.disk=0: expected a share"):
        HardwareProfile(break_even={"disk": 0})


def test_a_thin_place_is_never_billed_for_more_rows_than_it_takes():
    residency = RowCache(LRU(), GEOMETRY, 3, rows=0.5, break_even=0.25)
    assert residency.break_even == 1.0
    (plan,) = residency.request(Access(0, 0, 0, DECODE, (0, 1, 2)), [0b1111, 0b11, 1])
    assert [load.rows for load in plan.loads] == [rows(0, 1, 2, 3), rows(0, 1), rows(0)]


def test_a_hit_whose_rows_come_in_a_later_wave_is_partial_and_not_late():
    residency = RowCache(LRU(), GEOMETRY, 3, rows=0.5)
    cache_stats = CacheStats(GEOMETRY)
    for clock, wanted in enumerate((0b1111, 0b11111)):  # the second time the place is full
        for plan in residency.request(Access(clock, clock, 0, DECODE, (0, 1, 2)), [wanted, 1, 1]):
            cache_stats.demand(DECODE, plan)
    counts = cache_stats.phases[DECODE]
    assert (counts.demand_misses, counts.partial_hits, counts.resident_hits) == (3, 1, 2)
    assert (counts.requests, counts.visits) == (6, 2)


def test_without_a_place_to_spare_nothing_is_filled_up_early():
    residency = RowCache(LRU(), GEOMETRY, 3, staging=1)
    list(residency.request(Access(0, 0, 0, DECODE, (0, 1, 2)), [1, 1, 1]))
    list(residency.request(Access(1, 0, 1, DECODE, (0, 1, 2)), [1, 1, 1]))
    prefetches = [Prediction(Expert(0, index), 1.0, rows(3)) for index in range(3)]
    assert residency.prefetch(prefetches, 1).transfers == ()


def test_rows_that_came_early_for_an_expert_that_then_leaves_are_wasted():
    residency = RowCache(LRU(), GEOMETRY, 3, pool="global")
    for layer in range(3):
        list(residency.request(Access(layer, 0, layer, DECODE, (0, 1, 2)), [1, 1, 1]))
    early = residency.prefetch([Prediction(Expert(0, 0), 1.0, rows(3))], 2)
    assert [fill.rows for fill in early.fills] == [rows(3)]
    (plan,) = residency.request(Access(3, 1, 1, DECODE, (3, 4, 5)), [1, 1, 1])
    assert Expert(0, 0) in {left.expert for left in plan.evictions}
    assert plan.unused == (Eviction(Expert(0, 0), -1, rows(3)),)
    assert residency.finish(3).unused == ()
