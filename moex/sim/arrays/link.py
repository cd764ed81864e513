"""One link as functions over arrays: what `LinkTimeline` computes, in the same order of sums."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

NOW, FREE_AT, BUSY, STALL, MARK, MARK_BUSY = range(6)
"""Entries of `Machine.seconds`: now, when the link is free, how long it was busy, the running
visit's stall, and the first and third at the end of the visit before."""

DEMAND, SPECULATION, IDLE, MOVED, MARK_MOVED = range(5)
"""Entries of `Machine.number`: transfers queued as demand, as speculation, and unused; bytes that
were moved, now and at the end of the visit before."""

PASSES, TOKENS, BYTES = range(3)
SECONDS, STALLED, LINK_BUSY = range(3)


class Machine(NamedTuple):
    """The device's compute engine and one link.

    cost: seconds and bytes of `costs`.
    seconds, number: the entries named above.
    demand, speculation, idle: transfers in either queue, and unused ones [transfers].
    submitted, remaining, urgent, done: of each transfer, as of `Transfer` [transfers].
    waited: whether a slot's load is still to be waited for [transfers].
    of_slot: the transfer that a slot waits for, or -1 [slots].
    counted, clocked: of each phase, the numbers and the seconds of `Clocked` [2, 3].
    """

    cost: Any
    seconds: Any
    number: Any
    demand: Any
    speculation: Any
    idle: Any
    submitted: Any
    remaining: Any
    urgent: Any
    done: Any
    waited: Any
    of_slot: Any
    counted: Any
    clocked: Any


class Costs(NamedTuple):
    """What a machine is made of: seconds, bytes, and bytes/s."""

    visit_s: float
    pass_s: float
    expert_s: float
    load_s: float
    early_s: float
    submit_s: float
    handover_s: float
    predict_s: float
    latency_s: float
    bytes_per_s: float
    chunk: int
    size: int


def retire(m: Any, transfer: int) -> None:
    """Let a transfer's number be used again."""
    m.idle[m.number[IDLE]] = transfer
    m.number[IDLE] += 1


def append(m: Any, transfer: int) -> None:
    """Add a transfer to the end of its queue."""
    if m.urgent[transfer]:
        m.demand[m.number[DEMAND]] = transfer
        m.number[DEMAND] += 1
    else:
        m.speculation[m.number[SPECULATION]] = transfer
        m.number[SPECULATION] += 1


def remove(m: Any, transfer: int) -> None:
    """Remove a transfer from its queue."""
    queue, which = (m.demand, DEMAND) if m.urgent[transfer] else (m.speculation, SPECULATION)
    at = 0
    while queue[at] != transfer:
        at += 1
    m.number[which] -= 1
    for i in range(at, m.number[which]):
        queue[i] = queue[i + 1]


def advance(m: Any, now: float) -> None:
    """Send every chunk that begins before `now`."""
    while m.number[DEMAND] or m.number[SPECULATION]:
        transfer = m.demand[0] if m.number[DEMAND] else m.speculation[0]
        start = max(m.seconds[FREE_AT], m.submitted[transfer])
        waits = m.number[DEMAND] > 0 and m.number[SPECULATION] > 0
        if waits and m.submitted[m.demand[0]] > m.seconds[FREE_AT]:
            # The link was free before demand was submitted: it sent a prefetch meanwhile.
            transfer = m.speculation[0]
            start = max(m.seconds[FREE_AT], m.submitted[transfer])
            if start >= m.submitted[m.demand[0]]:
                transfer = m.demand[0]
                start = m.submitted[transfer]
        if start >= now:
            return
        _send(m, transfer, start)


def _send(m: Any, transfer: int, start: float) -> None:
    chunk = min(m.cost.chunk, m.remaining[transfer])
    begun = m.remaining[transfer] < m.cost.size
    took = chunk / m.cost.bytes_per_s + (0.0 if begun else m.cost.latency_s)
    m.remaining[transfer] -= chunk
    m.seconds[FREE_AT] = start + took
    m.seconds[BUSY] += took
    m.number[MOVED] += chunk
    if m.remaining[transfer] == 0:
        m.done[transfer] = m.seconds[FREE_AT]
        remove(m, transfer)
        if not m.waited[transfer]:
            retire(m, transfer)


def arrival(m: Any, transfer: int) -> float:
    """Return when the transfer completes; a prefetch counts as demand from now on."""
    now = m.seconds[NOW]
    advance(m, now)
    if m.done[transfer] < inf:
        return float(m.done[transfer])
    if not m.urgent[transfer]:
        remove(m, transfer)
        m.urgent[transfer] = True
        append(m, transfer)
    when = max(m.seconds[FREE_AT], now)
    for i in range(m.number[DEMAND]):
        waiting = m.demand[i]
        when += m.remaining[waiting] / m.cost.bytes_per_s
        when += 0.0 if m.remaining[waiting] < m.cost.size else m.cost.latency_s
        if waiting == transfer:
            break
    return when
