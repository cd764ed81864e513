"""The virtual clock as functions over arrays: what `Clock` computes, in the same order of sums.

At most one load of a slot is waited for; what was overtaken and had begun is still sent.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.sim.arrays.link import (
    BUSY,
    BYTES,
    IDLE,
    LINK_BUSY,
    MARK,
    MARK_BUSY,
    MARK_MOVED,
    MOVED,
    NOW,
    PASSES,
    SECONDS,
    STALL,
    STALLED,
    TOKENS,
    Costs,
    Machine,
    advance,
    append,
    arrival,
    remove,
    retire,
)
from moex.sim.arrays.residency import HITS, LOADS, PREFETCHED

if TYPE_CHECKING:
    from moex.cache.core import ExpertCache
    from moex.sim.clock import Clock


def machine(clock: Clock | None, cache: ExpertCache) -> Machine:
    """Return an idle machine with the costs of a replay's clock; without one it takes no time."""
    size = cache.geometry.expert_bytes
    cost = Costs(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1, size)
    if clock is not None:
        profile, link = clock.profile, clock.link
        cost = Costs(
            visit_s=float(profile.visit_s),
            pass_s=float(profile.pass_s),
            expert_s=float(clock.expert_s),
            load_s=float(profile.load_s),
            early_s=float(clock.early_s),
            submit_s=float(profile.submit_s),
            handover_s=float(profile.handover_s),
            predict_s=float(profile.predict_s),
            latency_s=float(link.latency_s),
            bytes_per_s=float(link.bytes_per_s),
            chunk=int(link.chunk_bytes),
            size=size,
        )
    count = 4 * cache.total_slots + 64
    number = np.zeros(5, np.int64)
    number[IDLE] = count
    return Machine(
        cost,
        seconds=np.zeros(6),
        number=number,
        demand=np.zeros(count, np.int64),
        speculation=np.zeros(count, np.int64),
        idle=np.arange(count),
        submitted=np.zeros(count),
        remaining=np.zeros(count, np.int64),
        urgent=np.zeros(count, np.bool_),
        done=np.zeros(count),
        waited=np.zeros(count, np.bool_),
        of_slot=np.full(cache.total_slots, -1, np.int64),
        counted=np.zeros((2, 3), np.int64),
        clocked=np.zeros((2, 3)),
    )


def begin_timed(m: Any, phase: int, first_layer: bool, tokens: int) -> None:
    """Compute what precedes a visit's experts, and the first visit of a pass of `tokens`."""
    m.seconds[STALL] = 0.0
    m.seconds[NOW] += m.cost.visit_s
    if first_layer:
        m.seconds[NOW] += m.cost.pass_s
        m.counted[phase, PASSES] += 1
        m.counted[phase, TOKENS] += tokens


def end_timed(m: Any, phase: int) -> bool:
    """Count the time and the link's work since the last visit; whether it had to wait."""
    advance(m, m.seconds[NOW])
    m.clocked[phase, SECONDS] += m.seconds[NOW] - m.seconds[MARK]
    m.clocked[phase, STALLED] += m.seconds[STALL]
    m.clocked[phase, LINK_BUSY] += m.seconds[BUSY] - m.seconds[MARK_BUSY]
    m.counted[phase, BYTES] += m.number[MOVED] - m.number[MARK_MOVED]
    m.seconds[MARK] = m.seconds[NOW]
    m.seconds[MARK_BUSY] = m.seconds[BUSY]
    m.number[MARK_MOVED] = m.number[MOVED]
    return bool(m.seconds[STALL] > 0)


def submit(m: Any, dropped: Any, drops: int, loads: Any, count: int, speculative: bool) -> None:
    """Cancel stale loads that have not begun, and submit others; all are given as slots."""
    for i in range(drops):
        _forget(m, dropped[i])
    for i in range(count):
        _forget(m, loads[i])
    for i in range(count):
        advance(m, m.seconds[NOW])
        m.number[IDLE] -= 1
        transfer = m.idle[m.number[IDLE]]
        m.submitted[transfer] = m.seconds[NOW]
        m.remaining[transfer] = m.cost.size
        m.urgent[transfer] = not speculative
        m.done[transfer] = inf
        m.waited[transfer] = True
        m.of_slot[loads[i]] = transfer
        append(m, transfer)
    if count:  # the transfers begin while the device is still busy handing them over
        m.seconds[NOW] += m.cost.submit_s + count * m.cost.handover_s


def forget(m: Any) -> None:
    """Cancel all transfers that have not begun, and wait for none."""
    for slot in range(len(m.of_slot)):
        _forget(m, slot)


def _forget(m: Any, slot: int) -> None:
    """Wait for this slot's load no longer, and cancel it if it has not begun."""
    transfer = m.of_slot[slot]
    if transfer < 0:
        return
    advance(m, m.seconds[NOW])
    if m.remaining[transfer] == m.cost.size:
        remove(m, transfer)
        m.done[transfer] = m.seconds[NOW]
    _stop_waiting(m, slot)


def _stop_waiting(m: Any, slot: int) -> None:
    """A transfer that is neither queued nor waited for is unused."""
    transfer = m.of_slot[slot]
    m.of_slot[slot] = -1
    m.waited[transfer] = False
    if m.done[transfer] < inf:
        retire(m, transfer)


def compute(m: Any, prefetched: Any, loads: Any, number: Any) -> int:
    """Serve residents, then prefetches, then loads (as slots); return how many hits were late."""
    late = 0
    m.seconds[NOW] += m.cost.expert_s * (number[HITS] - number[PREFETCHED])
    for i in range(number[PREFETCHED]):
        late += wait(m, prefetched[i])
        m.seconds[NOW] += m.cost.expert_s + m.cost.load_s
    for i in range(number[LOADS]):
        wait(m, loads[i])
        m.seconds[NOW] += m.cost.expert_s + m.cost.load_s
    return late


def wait(m: Any, slot: int) -> bool:
    """Let the device wait for the load of a slot; return whether it was late."""
    transfer = m.of_slot[slot]
    if transfer < 0:
        return False
    when = arrival(m, transfer)
    _stop_waiting(m, slot)
    stall = max(0.0, when - m.cost.early_s - m.seconds[NOW])
    m.seconds[NOW] += stall
    m.seconds[STALL] += stall
    return bool(stall > 0)
