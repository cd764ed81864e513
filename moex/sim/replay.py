"""Replays a trace with given decisions: its result row, and a lower bound on its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.decisions.rows import whole_from
from moex.sim.simulator import simulate
from moex.sim.time_bound import decode_lower_bound

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.decisions.decisions import Decisions
    from moex.hardware.profile import HardwareProfile
    from moex.runs.report import Report
    from moex.trace.format import Trace
    from moex.types import Plan


def replay(
    decisions: Decisions,
    trace: Trace,
    hardware: HardwareProfile | None = None,
    cold: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    clock: HardwareProfile | None = None,
) -> Report:
    """Replay a trace and return its result row.

    Args:
        decisions: policy, memory, prefetcher and miss handler.
        trace: the recorded routing.
        hardware: the profile that decisions are made for, with costs of the trace's model
            (`scaled`).
        cold: whether every sequence starts with an empty cache.
        on_plan: called with every plan.
        clock: the profile that times are computed with; default `hardware`.
    """
    future = trace.future() if "future" in decisions.policy.needs else None
    cache = decisions.build(trace.geometry, hardware, future)
    governor = decisions.make_governor(trace.geometry, hardware)
    times = clock or hardware
    given = cold, on_plan, governor, decisions.routing
    report = simulate(trace, cache, decisions.prefetcher, times, *given)
    if decisions.routing is not None:
        report.lossy.append("routing")
    report.residency_dependent = decisions.routes_by_residency
    if decisions.miss is not None and decisions.miss.lossy:
        report.lossy.append("miss")
        report.residency_dependent = True
    if cache.selects:
        report.lossy.append("sparsity")
        memory = decisions.memory
        report.fill(
            rows=memory.rows,
            break_even=whole_from(memory, hardware, decisions.store),
            rows_moved=cache.by_rows,
        )
    return report


def decode_lower_bound_s(
    decisions: Decisions, trace: Trace, hardware: HardwareProfile | None, cold: bool = False
) -> float | None:
    """Return a lower bound on the seconds of decoding the trace, for any policy and prefetcher.

    None if it is unknown: without a timed profile, where rows are moved, with a routing policy, and
    with a miss handler that computes on the host or skips.
    """
    rows = decisions.moves_rows(hardware)
    fetches = decisions.miss is None or not (decisions.miss.on_host or decisions.miss.lossy)
    routed = decisions.routing is not None or trace.router is not None
    if hardware is None or not hardware.timed or rows or routed or not fetches:
        return None
    memory = decisions.memory
    slots = memory.resolve(trace.geometry)
    return decode_lower_bound(trace, hardware, slots, memory.pool, memory.staging, cold)
