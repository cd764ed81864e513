"""Replays a trace with given decisions: its result row, and a lower bound on its time."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from moex.decisions.rows import whole_from
from moex.sim.simulator import simulate
from moex.sim.time_bound import decode_lower_bound
from moex.types import Future

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.decisions.decisions import Decisions
    from moex.hardware.profile import HardwareProfile
    from moex.runs.report import Report
    from moex.trace.format import Trace
    from moex.types import Expert, Plan


class RecordedFuture(Future):
    """The future of a trace, read when it is first asked for, which compiled replays never do."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    @cached_property
    def _clocks(self) -> dict[Expert, list[int]]:  # type: ignore[override]
        return self._trace.future()._clocks


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
    future = RecordedFuture(trace) if "future" in decisions.policy.needs else None
    cache = decisions.build(trace.geometry, hardware, future)
    governor = decisions.make_governor(trace.geometry, hardware)
    times = clock or hardware
    report = simulate(trace, cache, decisions.prefetcher, times, cold, on_plan, governor)
    if decisions.miss is not None and decisions.miss.lossy:
        report.lossy.append("miss")
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

    None if it is unknown: without a timed profile, where rows are moved, and with a miss
    handler that computes on the host or skips.
    """
    rows = decisions.moves_rows(hardware)
    fetches = decisions.miss is None or not (decisions.miss.on_host or decisions.miss.lossy)
    if hardware is None or not hardware.timed or rows or not fetches:
        return None
    memory = decisions.memory
    slots = memory.resolve(trace.geometry)
    return decode_lower_bound(trace, hardware, slots, memory.pool, memory.staging, cold)
