"""The replay of a trace as one function over arrays; `compile.py` compiles it with a policy.

What happens in a visit, and in which order, is that of `interpreted.py`: tests compare every field
of the rows of both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from moex.cache.array_policy import ArrayPolicy, Moment
from moex.decisions.governor import allows, begin, count_ended
from moex.sim.arrays.clock import begin_timed, compute, end_timed, forget, submit
from moex.sim.arrays.link import NOW
from moex.sim.arrays.residency import (
    DROPPED,
    EVICTED,
    FLYING,
    HITS,
    LOADS,
    MISSING,
    PREFETCHED,
    drop,
    empty,
    release,
)
from moex.sim.arrays.visit import begin_visit, begin_wave, enter, make_room, prefetch

TIMED = PREDICTS = BYPASS = FUTURE = True
"""Whether a replay has a clock, a prefetcher, a policy that bypasses or needs the future.

What it does not have is not compiled."""

RESET, RESTART = 1, 2
"""Bits of `Events.fresh`: the run was interrupted here; a sequence starts with an empty cache."""

COUNTED = (
    "visits",
    "requests",
    "resident_hits",
    "prefetched_hits",
    "late_hits",
    "demand_misses",
    "waited_visits",
    "paused_visits",
    "prefetch_wasted",
    "prefetches",
)
"""What is counted by layer and phase; `CompiledReplay.layer_stats` derives the other counts."""
VISITS, REQUESTS, RESIDENT, USED, LATE, MISSED, WAITED, PAUSED, WASTED, ISSUED = range(10)


class Events(NamedTuple):
    """A trace, or a part of one, as arrays.

    start: the clock of the first visit.
    layer, position, prefill, tokens, fresh: of every visit [visits].
    offsets: `offsets[i]:offsets[i + 1]` delimits visit i's experts [visits + 1].
    experts, next_use: of every access [accesses]; the latter empty if the policy needs no future.
    predicted_offsets, predicted: the experts predicted in every visit; empty without a prefetcher.
    """

    start: int
    layer: Any
    position: Any
    prefill: Any
    tokens: Any
    fresh: Any
    offsets: Any
    experts: Any
    next_use: Any
    predicted_offsets: Any
    predicted: Any


class Settings(NamedTuple):
    """What a replay is made with.

    `layers` are those of a pool, `spare` the staging slots for prefetches, `least` the share of
    prefetches that the governor demands (0: none).
    """

    experts: int
    layers: int
    spare: int
    least: float


class Run(NamedTuple):
    """The state of a replay.

    r, v, m: residency, running visit and virtual machine.
    counts: what is counted [layers, phases, counts].
    last: layer and phase of the visit before; the layer is -1 if there was none.
    governing: the numbers of the governor.
    states, fresh: the states of all pools' policies, and those of empty pools.
    """

    r: Any
    v: Any
    m: Any
    counts: Any
    last: Any
    governing: Any
    states: Any
    fresh: Any


# A policy's own rules take the place of these where it is compiled.
visited, used = ArrayPolicy.visited, ArrayPolicy.used


def pick(states: Any, pool: int) -> Any:
    """Return the state of a pool."""
    return states


def restore(states: Any, fresh: Any) -> None:
    """Discard all states."""


def copy(values: Any, into: Any) -> None:
    """Copy the state of all pools [pools, numbers]."""
    for pool in range(into.shape[0]):
        for at in range(into.shape[1]):
            into[pool, at] = values[pool, at]


def tell(state: Any, expert: int, when: float) -> None:
    """Tell a policy when an expert is used next."""
    state.next_use[expert] = when


def replay(events: Any, settings: Any, run: Any) -> None:
    """Replay every visit."""
    for i in range(len(events.layer)):
        if events.fresh[i]:
            start_anew(events.fresh[i], settings, run)
        layer, phase = events.layer[i], int(events.prefill[i])
        run.last[0], run.last[1] = layer, phase
        if TIMED:
            begin_timed(run.m, phase, layer == 0, events.tokens[i])
        late, waited = visit(events, settings, run, i, run.counts[layer, phase])
        if TIMED:
            waited = end_timed(run.m, phase)
        run.counts[layer, phase, LATE] += late
        run.counts[layer, phase, WAITED] += waited


def start_anew(why: int, settings: Any, run: Any) -> None:
    """Empty the cache, where the run was interrupted or a sequence starts cold."""
    if why & RESET and TIMED:
        forget(run.m)
    if why & RESET:
        empty(run.r)
    if why & RESTART:
        finish(settings, run)
    empty(run.r)
    restore(run.states, run.fresh)
    begin(run.governing)


def visit(events: Any, settings: Any, run: Any, i: int, count: Any) -> tuple[int, bool]:
    """Serve one visit: return how many hits were late, and whether anything was loaded."""
    r, v, number = run.r, run.v, run.v.number
    layer = events.layer[i]
    demanded = events.experts[events.offsets[i] : events.offsets[i + 1]]
    pool = layer // settings.layers
    first = pool * settings.layers * settings.experts
    state = pick(run.states, pool)
    now = Moment(events.start + i, events.position[i], layer - pool * settings.layers)
    visited(state, now)
    for at in range(len(demanded)):
        expert = demanded[at]
        if FUTURE:
            tell(state, expert - first, events.next_use[events.offsets[i] + at])
        used(state, expert - first, now, r.slot[expert] >= 0)
    begin_visit(r, v, demanded, layer * settings.experts, settings.experts)
    classified(number, count)
    if number[MISSING]:
        make_room(r, v)
    late, loaded, last = 0, number[MISSING] > 0, False
    while not last:
        if number[MISSING] or number[PREFETCHED]:
            entering = begin_wave(r, v, demanded)
            enter(r, v, BYPASS, state, now, pool, first, entering)
        last = number[MISSING] == 0
        count[WASTED] += number[DROPPED]
        late += execute(events, settings, run, i, count, last)
        release(r)
        number[HITS] = number[PREFETCHED] = number[DROPPED] = number[EVICTED] = 0
    return late, loaded


def classified(number: Any, count: Any) -> None:
    """Count what a visit demanded."""
    count[VISITS] += 1
    count[REQUESTS] += number[HITS] + number[MISSING]
    count[RESIDENT] += number[HITS] - number[PREFETCHED]
    count[USED] += number[PREFETCHED]
    count[MISSED] += number[MISSING]


def execute(events: Any, settings: Any, run: Any, i: int, count: Any, last: bool) -> int:
    """Submit a wave's loads, prefetch after the last, compute; return how many hits were late."""
    v, m, number = run.v, run.m, run.v.number
    if TIMED:
        submit(m, v.dropped_slots, number[DROPPED], v.load_slots, number[LOADS], False)
    if PREDICTS:
        if not events.prefill[i]:
            prefetched, dropped = number[PREFETCHED], number[DROPPED]
            count_ended(run.governing, settings.least, prefetched, dropped)
        if last:
            ask(events, settings, run, i, count)
    return compute(m, v.prefetched_slots, v.load_slots, number) if TIMED else 0


def ask(events: Any, settings: Any, run: Any, i: int, count: Any) -> None:
    """Prefetch what is predicted in this visit, unless the governor pauses prefetching."""
    if not allows(run.governing, settings.least, not events.prefill[i]):
        count[PAUSED] += 1
        return
    predicted = events.predicted[events.predicted_offsets[i] : events.predicted_offsets[i + 1]]
    issued = prefetch(run.r, predicted, settings.spare, run.v.ahead_slots)
    count[ISSUED] += issued
    if TIMED:
        run.m.seconds[NOW] += run.m.cost.predict_s
        submit(run.m, run.v.dropped_slots, 0, run.v.ahead_slots, issued, True)


def finish(settings: Any, run: Any) -> None:
    """End a run: drop the prefetches that were never demanded."""
    r, v = run.r, run.v
    if run.last[0] < 0:
        return
    while r.number[FLYING]:
        drop(r, v, 0)
    run.counts[run.last[0], run.last[1], WASTED] += v.number[DROPPED]
    if TIMED:
        submit(run.m, v.dropped_slots, v.number[DROPPED], v.load_slots, 0, False)
    v.number[DROPPED] = 0
