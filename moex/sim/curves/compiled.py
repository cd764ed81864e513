"""The compiled loops of `moex.sim.curves.stack`: exact replay, at one capacity or at all of them.

An expert is numbered `layer * experts + index`. Arrays are numpy's; shapes are given in `curves`.
Each function compiles when it is first called.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LRU, LFU, FIFO, BELADY, BYPASS = range(5)


@njit
def _better(a: int, b: int, worth: Any, last: Any) -> bool:
    """Whether expert a is kept before expert b: by worth, then last use, then index."""
    if worth[a] != worth[b]:
        return bool(worth[a] > worth[b])
    if last[a] != last[b]:
        return bool(last[a] > last[b])
    return a > b


@njit
def _use(clock: int, members: Any, following: Any, kind: int, worth: Any, last: Any) -> None:
    """Update the worth of a visit's members: their number of uses, or how soon the next is."""
    for i in range(len(members)):
        last[members[i]] = clock
        if kind == LFU:
            worth[members[i]] += 1
        elif kind >= BELADY:
            worth[members[i]] = -following[i]


@njit
def _count(members: Any, position: Any, depths: Any, deepest: Any) -> None:
    """Count the depth of every member, and that of the deepest if all have been seen."""
    bottom = 0
    for expert in members:
        if position[expert] < 0:
            bottom = len(deepest)
        else:
            depths[position[expert]] += 1
            bottom = max(bottom, position[expert])
    if bottom < len(deepest):
        deepest[bottom] += 1


@njit
def _lift(members: Any, here: Any, filled: int, member: Any, position: Any, over: Any) -> int:
    """Put the members on top; return how many others were displaced, which are in `over`."""
    waiting = 0
    for depth in range(min(len(members), filled)):
        if not member[here[depth]]:
            over[waiting] = here[depth]
            waiting += 1
    for depth in range(len(members)):
        here[depth] = members[depth]
        position[members[depth]] = depth
    return waiting


@njit
def _sink(
    here: Any,
    filled: int,
    depth: int,
    waiting: int,
    over: Any,
    member: Any,
    position: Any,
    worth: Any,
    last: Any,
) -> int:
    """From `depth` on, fill every slot with the best of its expert and the displaced ones.

    Returns how many slots are filled in the end.
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
        position[over[best]] = depth
        waiting -= 1
        over[best] = over[waiting]
        depth += 1
    return max(filled, depth)


def stack(visits: Any, pools: int, width: int, kind: int) -> tuple[Any, Any]:
    """Count accesses by stack depth, and visits by the depth of their deepest member.

    Returns two arrays [2 phases, width]: a cache of C slots serves depths below C.
    """
    depths, deepest = np.zeros((2, width), np.int64), np.zeros((2, width), np.int64)
    stacks, over = np.zeros((pools, width), np.int64), np.zeros(2 * width + 1, np.int64)
    position, last, worth, member, size = _state(pools, width)
    _stack(*visits, kind, stacks, size, over, position, last, worth, member, depths, deepest)  # type: ignore[call-arg]
    return depths, deepest


def _state(pools: int, width: int) -> tuple[Any, Any, Any, Any, Any]:
    """Return position, last use, worth and membership of every expert, and each pool's size."""
    named = pools * width
    position, last = np.full(named, -1, np.int64), np.zeros(named, np.int64)
    worth, member = np.zeros(named, np.int64), np.zeros(named, np.bool_)
    return position, last, worth, member, np.zeros(pools, np.int64)


@njit
def _forget(position: Any, worth: Any, size: Any) -> None:
    """Empty every pool."""
    for expert in range(len(position)):
        position[expert] = -1
        worth[expert] = 0
    for pool in range(len(size)):
        size[pool] = 0


@njit
def _stack(
    pool: Any,
    offsets: Any,
    experts: Any,
    following: Any,
    fresh: Any,
    phase: Any,
    kind: int,
    stacks: Any,
    size: Any,
    over: Any,
    position: Any,
    last: Any,
    worth: Any,
    member: Any,
    depths: Any,
    deepest: Any,
) -> None:
    for clock in range(len(pool)):
        if fresh[clock]:
            _forget(position, worth, size)
        begin, end = offsets[clock], offsets[clock + 1]
        members, here, filled = experts[begin:end], stacks[pool[clock]], size[pool[clock]]
        _count(members, position, depths[phase[clock]], deepest[phase[clock]])
        _use(clock, members, following[begin:end], kind, worth, last)
        for expert in members:
            member[expert] = True
        depth, waiting = 0, len(members)
        if kind == BYPASS:  # a member competes for its slot like all others
            for i in range(waiting):
                over[i] = members[i]
        else:
            depth = waiting
            waiting = _lift(members, here, filled, member, position, over)
        size[pool[clock]] = _sink(here, filled, depth, waiting, over, member, position, worth, last)
        for expert in members:
            member[expert] = False


@njit
def _victim(here: Any, member: Any, worth: Any, last: Any) -> int:
    """Return the slot of the resident of least worth that is not a member, -1 if none."""
    victim = -1
    for i in range(len(here)):
        if not member[here[i]] and (victim < 0 or _better(here[victim], here[i], worth, last)):
            victim = i
    return victim


def replay(visits: Any, pools: int, width: int, capacity: int, kind: int) -> Any:
    """Return the loads of every visit [visits] in a cache of `capacity` slots a pool."""
    loads = np.zeros(len(visits.pool), np.int64)
    slots = np.zeros((pools, capacity), np.int64)
    position, last, worth, member, size = _state(pools, width)
    _replay(*visits, kind, slots, size, position, last, worth, member, loads)  # type: ignore[call-arg]
    return loads


@njit
def _replay(
    pool: Any,
    offsets: Any,
    experts: Any,
    following: Any,
    fresh: Any,
    phase: Any,
    kind: int,
    slots: Any,
    size: Any,
    position: Any,
    last: Any,
    worth: Any,
    member: Any,
    loads: Any,
) -> None:
    for clock in range(len(pool)):
        if fresh[clock]:
            _forget(position, worth, size)
        begin, end = offsets[clock], offsets[clock + 1]
        members, here = experts[begin:end], slots[pool[clock]]
        _use(clock, members, following[begin:end], kind, worth, last)
        for expert in members:
            member[expert] = kind != BYPASS  # without bypass, members stay
            loads[clock] += position[expert] < 0
        for i in range(len(members)):
            expert = members[i]
            if position[expert] < 0:
                if kind == FIFO:
                    worth[expert] = begin + i  # the order of entry
                slot = size[pool[clock]]
                if slot < len(here):
                    size[pool[clock]] += 1
                else:
                    slot = _victim(here, member, worth, last)
                    if slot < 0 or (kind == BYPASS and _better(here[slot], expert, worth, last)):
                        continue
                    position[here[slot]] = -1
                here[slot], position[expert] = expert, slot
        for expert in members:
            member[expert] = False
