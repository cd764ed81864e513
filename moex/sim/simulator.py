"""Replays a trace with the same cache, policy and prefetcher that run live.

Without a timed profile it only counts; with one it also models time: a link, and fixed costs of a
visit, an expert and a pass. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.decisions.governor import Governor
from moex.prefetch.none import NoPrefetch
from moex.sim.arrays.compile import NotCompiled
from moex.sim.arrays.run import refusal, replay_compiled
from moex.sim.check import check
from moex.sim.interpreted import InterpretedReplay, watched
from moex.sim.shards import Totals, row
from moex.trace.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from moex.cache.core import ExpertCache
    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.routing.base import RoutingPolicy
    from moex.runs.measured import Clocked
    from moex.runs.report import Report
    from moex.trace.stream import TraceStream
    from moex.types import Plan


def simulate(
    trace: Trace | TraceStream,
    cache: ExpertCache,
    prefetcher: Prefetcher | None = None,
    hardware: HardwareProfile | None = None,
    cold: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    governor: Governor | None = None,
    compiled: bool | None = None,
    routing: RoutingPolicy | None = None,
) -> Report:
    """Replay every visit of the trace.

    Args:
        trace: the recorded routing; of a stream, only a chunk at a time is in memory.
        cache: a fresh or reusable cache; it is reset first. A `RowCache` moves only the rows that
            the run selected.
        prefetcher: default none.
        hardware: a timed profile for seconds, with costs of the trace's model (`scaled`); None or
            an untimed one for counts only.
        cold: start every sequence with an empty cache and fresh policies (else they carry over).
        on_plan: called with every plan, as a live run would execute it.
        governor: pauses the prefetcher; default never.
        compiled: False interprets; True compiles whatever has a compiled form; default: only where
            the trace is long. The row says which; all else in it is the same.
        routing: chooses experts anew from the recorded router rows; default: the model's own
            choice.

    Raises:
        ValueError: the trace lacks what the prefetcher needs, or is of another geometry.
    """
    prefetcher, governor = prefetcher or NoPrefetch(), governor or Governor()
    given = trace, cache, prefetcher, hardware, cold, on_plan, governor
    totals, times, why = replayed(*given, compiled, routing=routing)
    report = row(trace, cache, prefetcher, governor, totals, times)
    report.replay, report.interpreted_because = "interpreted" if why else "compiled", why
    return report


def replayed(
    trace: Trace | TraceStream,
    cache: ExpertCache,
    prefetcher: Prefetcher,
    hardware: HardwareProfile | None,
    cold: bool,
    on_plan: Callable[[Plan], None] | None,
    governor: Governor,
    compiled: bool | None = None,
    visits: tuple[int, int] | None = None,
    routing: RoutingPolicy | None = None,
) -> tuple[Totals, dict[str, Clocked] | None, str | None]:
    """Replay a trace; the arguments are those of `simulate`.

    `visits` are the first one, and the one after the last; default all.

    Returns:
        what was counted, what the clock measured of both phases (None without one), and why the
        replay was interpreted (None if it was compiled).
    """
    check(trace, cache, prefetcher, routing)
    visits = visits or (0, len(trace))
    times: dict[str, Clocked] | None = None
    why = refusal(trace, cache, prefetcher, on_plan, compiled, visits)
    if why is None:
        parts: Iterable[Trace] = watched(trace, *visits)
        if isinstance(trace, Trace) and visits == (0, len(trace)):
            parts = [trace]
        try:
            totals, times = replay_compiled(
                trace, parts, cache, prefetcher, hardware, cold, governor
            )
        except NotCompiled as error:
            why = str(error)
    if why is not None:
        run = InterpretedReplay(trace, cache, prefetcher, hardware, on_plan, governor, routing)
        run.replay(*visits, cold)
        totals, times = run.totals, run.clock.phases if run.clock else None
    return totals, times, why


def count(
    trace: Trace | TraceStream,
    cache: ExpertCache,
    prefetcher: Prefetcher | None,
    governor: Governor,
    visits: tuple[int, int],
) -> Totals:
    """Replay one shard, from the first visit to the last, cold and without times.

    The sum over all shards gives the row of the whole trace.

    Raises:
        ValueError: as `simulate`.
    """
    given = trace, cache, prefetcher or NoPrefetch(), None, True, None, governor
    return replayed(*given, visits=visits)[0]
