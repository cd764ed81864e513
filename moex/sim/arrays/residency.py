"""Slots and lists of a replay as arrays: which experts are where, and what a wave does.

An expert is numbered `layer * experts + index`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

FREE, FIRST_FREE, RELEASED, FLYING, FLOOR = range(5)
"""Entries of `Residency.number`."""

HITS, PREFETCHED, MISSING, LOADS, EVICTED, DROPPED = range(6)
"""Entries of `Visit.number`: how many of each list are filled."""


class Residency(NamedTuple):
    """Which experts are in which slots.

    slot, flight: the slot of every resident, of every prefetch in flight, or -1 [experts].
    order: the order of last uses, by which candidates are ordered [experts].
    held, size: the residents of every pool [pools, capacity], and how many there are [pools].
    free: slots, the one freed longest ago first, as a ring [slots].
    released: slots that the running wave still reads [slots].
    flying: experts in flight, in order of issue [slots].
    number: how many slots are free, where the ring begins, how many slots are released and how
        many experts in flight; and the least order of the running visit's members.
    """

    slot: Any
    flight: Any
    order: Any
    held: Any
    size: Any
    free: Any
    released: Any
    flying: Any
    number: Any


class Visit(NamedTuple):
    """What a wave of the running visit does; the lists are those of a `Plan` [experts].

    `entering` are a wave's loads, and prefetched ones in the first, in the order of the visit;
    `arriving` holds their slots, -1 between waves, and `ahead_slots` those of the prefetches that
    follow.
    """

    hits: Any
    slots: Any
    prefetched: Any
    prefetched_slots: Any
    missing: Any
    loads: Any
    load_slots: Any
    entering: Any
    arriving: Any
    evicted: Any
    dropped: Any
    dropped_slots: Any
    ahead_slots: Any
    number: Any


def empty(r: Any) -> None:
    """Discard all state: empty slots, no prefetches."""
    for expert in range(len(r.slot)):
        r.slot[expert] = r.flight[expert] = -1
    for pool in range(len(r.size)):
        r.size[pool] = 0
    for slot in range(len(r.free)):
        r.free[slot] = slot
    r.number[FREE] = len(r.free)
    r.number[FIRST_FREE] = r.number[RELEASED] = r.number[FLYING] = 0


def take_slot(r: Any) -> int:
    """Take the slot freed longest ago: its reads and writes have ended."""
    first = r.number[FIRST_FREE]
    r.number[FIRST_FREE] = first + 1 if first + 1 < len(r.free) else 0
    r.number[FREE] -= 1
    return r.free[first]


def free_slot(r: Any, slot: int) -> None:
    """Append a slot to the free ones."""
    last = r.number[FIRST_FREE] + r.number[FREE]
    r.free[last if last < len(r.free) else last - len(r.free)] = slot
    r.number[FREE] += 1


def release(r: Any) -> None:
    """Free the slots that only the previous wave read."""
    for i in range(r.number[RELEASED]):
        free_slot(r, r.released[i])
    r.number[RELEASED] = 0


def hold_back(r: Any, slot: int) -> None:
    """Free a slot after the wave that reads it."""
    r.released[r.number[RELEASED]] = slot
    r.number[RELEASED] += 1


def leave_flight(r: Any, at: int) -> int:
    """Remove the prefetch at this position; return the slot that it held."""
    expert = r.flying[at]
    r.number[FLYING] -= 1
    for i in range(at, r.number[FLYING]):
        r.flying[i] = r.flying[i + 1]
    slot = r.flight[expert]
    r.flight[expert] = -1
    return slot


def drop(r: Any, v: Any, at: int) -> None:
    """Drop the prefetch at this position."""
    count = v.number[DROPPED]
    v.dropped[count] = r.flying[at]
    v.dropped_slots[count] = leave_flight(r, at)
    free_slot(r, v.dropped_slots[count])
    v.number[DROPPED] = count + 1
