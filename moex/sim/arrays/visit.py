"""The decisions about one visit: those of `ExpertCache` and `Pool`, in the same order."""

from __future__ import annotations

from typing import Any

from moex.cache.array_policy import ArrayPolicy
from moex.sim.arrays.residency import (
    DROPPED,
    EVICTED,
    FLOOR,
    FLYING,
    FREE,
    HITS,
    LOADS,
    MISSING,
    PREFETCHED,
    drop,
    free_slot,
    hold_back,
    leave_flight,
    release,
    take_slot,
)

# The rules of a policy, which is LRU here: a policy's own take their place where it is compiled.
entered, evicted = ArrayPolicy.entered, ArrayPolicy.evicted
admits, score = ArrayPolicy.admits, ArrayPolicy.score


def begin_visit(r: Any, v: Any, demanded: Any, first: int, experts: int) -> None:
    """Classify the demanded experts; drop the prefetches for this layer that are not demanded.

    Args:
        r: the residency.
        v: filled with hits, prefetched ones among them, and missing experts.
        demanded: the experts, in top-k order.
        first: the layer's first expert.
        experts: of a layer.
    """
    release(r)
    floor = r.number[FLOOR] + 2 * len(r.slot)
    r.number[FLOOR] = floor
    hits, prefetched, missing = 0, 0, 0
    for expert in demanded:
        r.order[expert] = floor + expert
        slot = r.slot[expert]
        if slot < 0:
            slot = r.flight[expert]
            if slot < 0:
                v.missing[missing] = expert
                missing += 1
                continue
            v.prefetched[prefetched] = expert
            v.prefetched_slots[prefetched] = slot
            prefetched += 1
        v.hits[hits] = expert
        v.slots[hits] = slot
        hits += 1
    v.number[HITS], v.number[PREFETCHED], v.number[MISSING] = hits, prefetched, missing
    v.number[DROPPED] = v.number[LOADS] = v.number[EVICTED] = 0
    at = 0
    while at < r.number[FLYING]:
        expert = r.flying[at]
        if first <= expert < first + experts and r.order[expert] < floor:
            drop(r, v, at)
        else:
            at += 1


def make_room(r: Any, v: Any) -> None:
    """Drop prefetches for other layers, latest first, until all missing experts have slots."""
    at = r.number[FLYING] - 1
    while at >= 0 and r.number[FREE] < v.number[MISSING]:
        if r.order[r.flying[at]] < r.number[FLOOR]:
            drop(r, v, at)
        at -= 1


def begin_wave(r: Any, v: Any, demanded: Any) -> int:
    """Give slots to as many missing experts as there are free ones; return how many enter."""
    loads, missing = min(v.number[MISSING], r.number[FREE]), v.number[MISSING]
    for i in range(loads):
        expert = v.missing[i]
        slot = take_slot(r)
        v.loads[i] = v.entering[i] = expert
        v.load_slots[i] = v.arriving[expert] = slot
    for i in range(loads, missing):
        v.missing[i - loads] = v.missing[i]
    v.number[LOADS], v.number[MISSING] = loads, missing - loads
    if v.number[PREFETCHED] == 0:
        return loads
    for i in range(v.number[PREFETCHED]):
        expert = v.prefetched[i]
        at = 0
        while r.flying[at] != expert:
            at += 1
        v.arriving[expert] = leave_flight(r, at)
    count = 0
    for expert in demanded:
        if v.arriving[expert] >= 0:
            v.entering[count] = expert
            count += 1
    return count


def evict(r: Any, v: Any, pool: int, at: int) -> None:
    """Evict the resident at this position of its pool."""
    expert = r.held[pool, at]
    last = r.size[pool] - 1
    r.held[pool, at] = r.held[pool, last]
    r.size[pool] = last
    if r.order[expert] < r.number[FLOOR]:
        free_slot(r, r.slot[expert])
    else:  # a bypassed member is still read by this wave: its slot is free only after it
        hold_back(r, r.slot[expert])
    r.slot[expert] = -1
    v.evicted[v.number[EVICTED]] = expert
    v.number[EVICTED] += 1


def lowest(r: Any, bypass: bool, state: Any, now: Any, pool: int, first: int) -> int:
    """Return the position of the resident of lowest score, of equals the least recently used.

    Members of the visit are candidates only with `bypass`. -1 if there is no candidate.
    """
    floor, best, least, oldest = r.number[FLOOR], -1, 0.0, 0
    for at in range(r.size[pool]):
        expert = r.held[pool, at]
        order = r.order[expert]
        if order >= floor and not bypass:
            continue
        value = score(state, expert - first, now)
        if best < 0 or value < least or (value == least and order < oldest):
            best, least, oldest = at, value, order
    return best


def enter(
    r: Any, v: Any, bypass: bool, state: Any, now: Any, pool: int, first: int, count: int
) -> None:
    """Admit a wave's experts to their pool, and choose whom they evict.

    Args:
        r: the residency.
        v: holds the entering experts; filled with evictions.
        bypass: whether an expert just used competes for its slot.
        state: of the pool's policy.
        now: the logical time.
        pool: of the visited layer.
        first: the pool's first expert.
        count: how many experts enter.
    """
    floor, capacity = r.number[FLOOR], r.held.shape[1]
    for i in range(count):
        expert = v.entering[i]
        slot = v.arriving[expert]
        v.arriving[expert] = -1
        if not admits(state, expert - first, now):
            hold_back(r, slot)
            continue
        if r.size[pool] == capacity:
            at = lowest(r, bypass, state, now, pool, first)
            gone = r.held[pool, at] - first
            loses = bypass and score(state, expert - first, now) < score(state, gone, now)
            if at < 0 or loses:
                hold_back(r, slot)
                continue
            evicted(state, gone, now)
            evict(r, v, pool, at)
        r.held[pool, r.size[pool]] = expert
        r.size[pool] += 1
        r.slot[expert] = slot
        r.order[expert] = floor + len(r.slot) + i
        entered(state, expert - first, now)
    for i in range(count):
        r.order[v.entering[i]] = floor + v.entering[i]


def prefetch(r: Any, predicted: Any, room: int, slots: Any) -> int:
    """Admit predictions, best first, to free staging slots.

    Args:
        r: the residency.
        predicted: the experts.
        room: staging slots for prefetches, those in flight included.
        slots: filled with the slots of the loads.

    Returns:
        how many are loaded.
    """
    room -= r.number[FLYING]
    count = 0
    for expert in predicted:
        if room <= 0 or r.number[FREE] == 0:
            break
        if r.flight[expert] >= 0 or r.slot[expert] >= 0:
            continue
        slot = take_slot(r)
        r.flight[expert] = slot
        r.flying[r.number[FLYING]] = expert
        r.number[FLYING] += 1
        slots[count] = slot
        count += 1
        room -= 1
    return count
