"""The compiled loops of `moex.sim.curves`: exact replay, at one capacity or at all of them.

An expert is numbered `layer * experts + index`. Arrays are numpy's; shapes stand in `curves`. Each
function compiles when it is first called.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LRU, LFU, FIFO, BELADY, BYPASS = range(5)


@njit
def _better(a: int, b: int, worth: Any, last: Any) -> bool:
    """Whether expert a outlives expert b: worth, then last use, then index."""
    if worth[a] != worth[b]:
        return bool(worth[a] > worth[b])
    if last[a] != last[b]:
        return bool(last[a] > last[b])
    return a > b


@njit
def _use(clock: int, members: Any, following: Any, kind: int, worth: Any, last: Any) -> None:
    """Update the worth of a visit's members: how often used, or how soon again."""
    for i in range(len(members)):
        last[members[i]] = clock
        if kind == LFU:
            worth[members[i]] += 1
        elif kind >= BELADY:
            worth[members[i]] = -following[i]


@njit
def _count(members: Any, place: Any, depths: Any, deepest: Any) -> None:
    """Book the depth of every member, and that of the deepest if all have been seen."""
    bottom = 0
    for expert in members:
        if place[expert] < 0:
            bottom = len(deepest)
        else:
            depths[place[expert]] += 1
            bottom = max(bottom, place[expert])
    if bottom < len(deepest):
        deepest[bottom] += 1


@njit
def _lift(members: Any, here: Any, filled: int, member: Any, place: Any, over: Any) -> int:
    """Put the members on top; return how many others lost their places, which wait in `over`."""
    waiting = 0
    for depth in range(min(len(members), filled)):
        if not member[here[depth]]:
            over[waiting] = here[depth]
            waiting += 1
    for depth in range(len(members)):
        here[depth] = members[depth]
        place[members[depth]] = depth
    return waiting


@njit
def _sink(
    here: Any,
    filled: int,
    depth: int,
    waiting: int,
    over: Any,
    member: Any,
    place: Any,
    worth: Any,
    last: Any,
) -> int:
    """From `depth` on, give every place to the best of who waits and who is there.

    Returns how many places are taken in the end.
    """
    while waiting:
        if depth < filled and not member[here[depth]]:
            over[waiting] = here[depth]
            waiting += 1
        best = 0
        for i in range(1, waiting):
            if _better(over[i], over[best], worth, last):
                best = i
        here[depth] = over[best]
        place[over[best]] = depth
        waiting -= 1
        over[best] = over[waiting]
        depth += 1
    return max(filled, depth)


@njit
def stack(
    pool: Any,
    offsets: Any,
    experts: Any,
    following: Any,
    fresh: Any,
    phase: Any,
    pools: int,
    width: int,
    kind: int,
) -> tuple[Any, Any]:
    """Count accesses by stack depth, and visits by the depth of their deepest member.

    Returns two arrays [2 phases, width]: a cache of C slots serves what lies at depth < C.
    """
    depths, deepest = np.zeros((2, width), np.int64), np.zeros((2, width), np.int64)
    stacks = np.empty((pools, width), np.int64)
    size = np.zeros(pools, np.int64)
    named = pools * width
    place, last, worth = np.full(named, -1), np.zeros(named, np.int64), np.zeros(named, np.int64)
    member = np.zeros(named, np.bool_)
    over = np.empty(2 * width + 1, np.int64)
    for clock in range(len(pool)):
        if fresh[clock]:
            size[:], place[:], worth[:] = 0, -1, 0
        begin, end = offsets[clock], offsets[clock + 1]
        members, here, filled = experts[begin:end], stacks[pool[clock]], size[pool[clock]]
        _count(members, place, depths[phase[clock]], deepest[phase[clock]])
        _use(clock, members, following[begin:end], kind, worth, last)
        for expert in members:
            member[expert] = True
        if kind == BYPASS:  # a member competes for its place like all others
            depth, waiting = 0, len(members)
            over[:waiting] = members
        else:
            depth = len(members)
            waiting = _lift(members, here, filled, member, place, over)
        size[pool[clock]] = _sink(here, filled, depth, waiting, over, member, place, worth, last)
        for expert in members:
            member[expert] = False
    return depths, deepest


@njit
def _victim(here: Any, member: Any, worth: Any, last: Any) -> int:
    """The slot of the resident worth least that is no member, -1 if there is none."""
    victim = -1
    for i in range(len(here)):
        if not member[here[i]] and (victim < 0 or _better(here[victim], here[i], worth, last)):
            victim = i
    return victim


@njit
def replay(
    pool: Any,
    offsets: Any,
    experts: Any,
    following: Any,
    fresh: Any,
    pools: int,
    named: int,
    capacity: int,
    kind: int,
) -> Any:
    """Return the loads of every visit [visits] in a cache of `capacity` slots a pool."""
    loads = np.zeros(len(pool), np.int64)
    slots = np.empty((pools, capacity), np.int64)
    size = np.zeros(pools, np.int64)
    resident, member = np.zeros(named, np.bool_), np.zeros(named, np.bool_)
    last, worth = np.zeros(named, np.int64), np.zeros(named, np.int64)
    for clock in range(len(pool)):
        if fresh[clock]:
            size[:], resident[:], worth[:] = 0, False, 0
        begin, end = offsets[clock], offsets[clock + 1]
        members, here = experts[begin:end], slots[pool[clock]]
        _use(clock, members, following[begin:end], kind, worth, last)
        for expert in members:
            member[expert] = kind != BYPASS  # without bypass, members stay
            loads[clock] += not resident[expert]
        for expert in members:
            if resident[expert]:
                continue
            if kind == FIFO:
                worth[expert] = clock * named + expert
            place = size[pool[clock]]
            if place < capacity:
                size[pool[clock]] += 1
            else:
                place = _victim(here, member, worth, last)
                if place < 0 or (kind == BYPASS and _better(here[place], expert, worth, last)):
                    continue
                resident[here[place]] = False
            here[place], resident[expert] = expert, True
        for expert in members:
            member[expert] = False
    return loads
