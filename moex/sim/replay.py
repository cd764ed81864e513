"""Replays a trace with given decisions: its result row, and a lower bound on its time."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from moex.cache.variants.tiers import load_future
from moex.decisions.rows import whole_from
from moex.sim.shards import Totals, borders
from moex.sim.simulator import count, row, simulate
from moex.sim.time_bound import decode_lower_bound
from moex.trace.trace import Trace
from moex.types import Future

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.cache.core import ExpertCache
    from moex.decisions.decisions import Decisions
    from moex.hardware.profile import HardwareProfile
    from moex.runs.report import Report
    from moex.trace.stream import TraceStream
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
    trace: Trace | TraceStream,
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
    cache = _cache(decisions, trace, hardware, cold)
    governor = decisions.make_governor(trace.geometry, hardware)
    times = clock or hardware
    given = cold, on_plan, governor, None, decisions.routing
    report = simulate(trace, cache, decisions.prefetcher, times, *given)
    return _described(report, decisions, cache, hardware)


def replay_shard(
    decisions: Decisions,
    trace: Trace | TraceStream,
    hardware: HardwareProfile | None,
    visits: tuple[int, int],
) -> Totals:
    """Replay one shard of a trace, given by `borders`; return what it counts.

    Raises:
        ValueError: a routing policy, whose swaps are not added up.
    """
    if decisions.routing is not None or trace.has("router"):
        raise ValueError(
            "shards: a routing policy, or a trace of one, is replayed as a whole; try shards=1"
        )
    cache = _cache(decisions, trace, hardware, cold=True)
    governor = decisions.make_governor(trace.geometry, hardware)
    return count(trace, cache, decisions.prefetcher, governor, visits)


def totals_row(
    decisions: Decisions,
    trace: Trace | TraceStream,
    hardware: HardwareProfile | None,
    totals: Totals,
) -> Report:
    """Return the result row of the sum over shards: that of a replay of the whole trace."""
    none = Future(())
    cache = decisions.build(trace.geometry, hardware, none, loads=none)  # it decides nothing here
    governor = decisions.make_governor(trace.geometry, hardware)
    report = row(trace, cache, decisions.prefetcher, governor, totals)
    return _described(report, decisions, cache, hardware)


def replay_in_shards(
    decisions: Decisions,
    trace: Trace | TraceStream,
    shards: int,
    hardware: HardwareProfile | None = None,
    cold: bool = False,
) -> Report:
    """Replay a trace shard by shard, in this process; the row is that of the whole.

    Raises:
        ValueError: shards that depend on each other.
    """
    totals, timed = Totals(trace.geometry), hardware is not None and hardware.timed
    for visits in borders(trace, shards, cold, timed):
        totals.add(replay_shard(decisions, trace, hardware, visits).plain())
    report = totals_row(decisions, trace, hardware, totals)
    report.shards = shards
    return report


def _cache(
    decisions: Decisions,
    trace: Trace | TraceStream,
    hardware: HardwareProfile | None,
    cold: bool = False,
) -> ExpertCache:
    future: Future | None = None
    if "future" in decisions.policy.needs:
        future = RecordedFuture(trace) if isinstance(trace, Trace) else trace.future()
    loads = None
    if decisions.needs_future_loads:
        plans: list[Plan] = []
        replay(decisions.untiered, trace, hardware, cold, plans.append)
        loads = load_future(plans)
    return decisions.build(trace.geometry, hardware, future, loads=loads)


def _described(
    report: Report, decisions: Decisions, cache: ExpertCache, hardware: HardwareProfile | None
) -> Report:
    """Add to a row what a replay's settings make lossy."""
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
    decisions: Decisions,
    trace: Trace | TraceStream,
    hardware: HardwareProfile | None,
    cold: bool = False,
) -> float | None:
    """Return a lower bound on the seconds of decoding the trace, for any policy and prefetcher.

    None if it is unknown: without a timed profile, where rows are moved or layers have different
    numbers of slots or none, with a routing policy, with a miss handler that computes on the host
    or skips, and of a stream, because it takes all of a trace in memory.
    """
    if not isinstance(trace, Trace):
        return None
    rows = decisions.moves_rows(hardware)
    fetches = decisions.miss is None or not (decisions.miss.on_host or decisions.miss.lossy)
    routed = decisions.routing is not None or trace.router is not None
    if hardware is None or not hardware.timed or rows or routed or not fetches:
        return None
    memory = decisions.memory
    slots = memory.resolve(trace.geometry)
    if not isinstance(slots, int) or not slots:
        return None
    return decode_lower_bound(trace, hardware, slots, memory.pool, memory.staging, cold)
