"""Replays a trace with the same cache, policy and prefetcher that run live.

Without a timed profile it only counts; with one it also models time: a link, and fixed costs of a
visit, an expert and a pass. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.cache.stats import CacheStats
from moex.decisions.governor import Governor
from moex.prefetch.base import Observation
from moex.prefetch.none import NoPrefetch
from moex.runs.measured import measured
from moex.runs.report import Report
from moex.sim.arrays.compile import NotCompiled
from moex.sim.arrays.run import refusal, replay_compiled, start
from moex.sim.check import check
from moex.sim.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moex.cache.core import ExpertCache
    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.runs.measured import Clocked
    from moex.trace.format import Trace
    from moex.types import Access, Plan


def simulate(
    trace: Trace,
    cache: ExpertCache,
    prefetcher: Prefetcher | None = None,
    hardware: HardwareProfile | None = None,
    cold: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    governor: Governor | None = None,
    compiled: bool | None = None,
) -> Report:
    """Replay every visit of the trace.

    Args:
        trace: the recorded routing.
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

    Raises:
        ValueError: the trace lacks what the prefetcher needs, or is of another geometry.
    """
    prefetcher, governor = prefetcher or NoPrefetch(), governor or Governor()
    given = trace, cache, prefetcher, hardware, cold, on_plan, governor
    layer_stats, phases, why = replayed(*given, compiled)
    report = _report(trace, cache, prefetcher, governor, layer_stats, phases)
    report.replay, report.interpreted_because = "interpreted" if why else "compiled", why
    return report


def replayed(
    trace: Trace,
    cache: ExpertCache,
    prefetcher: Prefetcher,
    hardware: HardwareProfile | None,
    cold: bool,
    on_plan: Callable[[Plan], None] | None,
    governor: Governor,
    compiled: bool | None,
) -> tuple[list[CacheStats], dict[str, Clocked] | None, str | None]:
    """Replay a trace; the arguments are those of `simulate`.

    Returns:
        the statistics of every layer, what the clock measured of both phases (None without one),
        and why the replay was interpreted (None if it was compiled).
    """
    check(trace, cache, prefetcher)
    why = refusal(trace, cache, prefetcher, on_plan, compiled)
    if why is None:
        try:
            return *replay_compiled(trace, cache, prefetcher, hardware, cold, governor), None
        except NotCompiled as error:
            why = str(error)
    run = _Replay(trace, cache, prefetcher, hardware, on_plan, governor)
    run.all(cold)
    return run.layer_stats, run.clock.phases if run.clock else None, why


def _report(
    trace: Trace,
    cache: ExpertCache,
    prefetcher: Prefetcher,
    governor: Governor,
    layer_stats: list[CacheStats],
    phases: dict[str, Clocked] | None,
) -> Report:
    """Return the result row of a replay, from its statistics and, if it was timed, its clock's."""
    predicts = not isinstance(prefetcher, NoPrefetch)
    report = Report(
        source="sim",
        mode="simulate",
        policy=type(cache.prototype).__name__,
        prefetcher=type(prefetcher).__name__,
        governor=governor.state if predicts else None,
        link="modelled" if phases else "none",
        slots=cache.slots,
        pool=cache.pool,
        capacity_bytes=int(cache.total_slots * trace.geometry.expert_bytes * cache.slot_share),
        oracle="future" in cache.prototype.needs | prefetcher.needs,
    )
    report.fill(
        *measured(layer_stats, phases, cache.by_rows),
        tokens_decode=trace.tokens_of(prefill=False),
        tokens_prefill=trace.tokens_of(prefill=True),
    )
    return report


class _Replay:
    """The state of one replay."""

    def __init__(
        self,
        trace: Trace,
        cache: ExpertCache,
        prefetcher: Prefetcher,
        hardware: HardwareProfile | None,
        on_plan: Callable[[Plan], None] | None,
        governor: Governor,
    ) -> None:
        self.trace, self.cache, self.prefetcher, self.on_plan = trace, cache, prefetcher, on_plan
        self.layer_stats = [CacheStats(trace.geometry) for _ in range(trace.geometry.layers)]
        timed = hardware is not None and hardware.timed
        self.clock = Clock(hardware, trace.geometry, cache) if timed and hardware else None
        self.predicts, self.governor = not isinstance(prefetcher, NoPrefetch), governor
        self.access: Access | None = None
        self.cache.reset()
        start(prefetcher, trace, cache.seed)
        governor.reset()

    def restart(self) -> None:
        """Begin a sequence with an empty cache."""
        self._finish()
        self._empty()

    def reset(self) -> None:
        """Empty the cache where the run was interrupted; prefetches in flight are not counted."""
        if self.clock:
            self.clock.forget()
        self._empty()

    def _empty(self) -> None:
        self.cache.reset()
        self.prefetcher.reset(self.trace.geometry, self.cache.seed)
        self.governor.reset()

    def _finish(self) -> None:
        if self.access is not None:
            plan = self.cache.finish(self.access.clock)
            self.layer_stats[self.access.layer].dropped(self.access.phase, plan)
            if self.clock:
                self.clock.submit(plan)
            if self.on_plan:
                self.on_plan(plan)

    def visit(self, access: Access, tokens: int) -> None:
        """Replay one layer visit; the order of everything is the live runner's."""
        self.access = access
        phase, clock, on_plan = access.phase, self.clock, self.on_plan
        cache_stats = self.layer_stats[access.layer]
        needs: Sequence[int | None] = ()
        if self.cache.selects:
            needs = self.trace.needs(access.clock)
            cache_stats.selected(phase, needs)
        if clock:
            clock.begin_visit(access, tokens)
        late, waited = 0, False
        for plan in self.cache.request(access, needs):
            if on_plan:
                on_plan(plan)
            cache_stats.demand(phase, plan)
            if clock:
                clock.submit(plan)
            if self.predicts:
                self.governor.count(access, plan)
                if plan.last:
                    self._prefetch(access)
            if clock:
                late += self._compute(plan, clock)
            else:
                waited = waited or bool(plan.transfers or plan.host)
        if clock:
            waited = clock.end_visit()
        cache_stats.waited(phase, late, waited)

    def _compute(self, plan: Plan, clock: Clock) -> int:
        """Serve residents, then prefetches, loads, the host; return how many hits were late."""
        late, load_s = 0, clock.profile.load_s
        if plan.host:
            clock.begin_host(len(plan.host))
        if not self.cache.by_rows:
            clock.now += clock.expert_s * (len(plan.hits) - len(plan.prefetched))
        else:
            for _, slot in plan.residents:
                clock.wait(slot)  # for rows that were prefetched
                clock.now += clock.expert_s
        for _, slot, prefetched in plan.arrivals:
            late += clock.wait(slot) and prefetched
            clock.now += clock.expert_s + load_s
        if plan.host:
            clock.wait_host()
        return late

    def _prefetch(self, access: Access) -> None:
        observation = Observation(access, self.trace.lookahead_rows(access.clock))
        self.prefetcher.observe(observation)
        if not self.governor.allows(access):
            self.layer_stats[access.layer].paused(access.phase)
            return
        plan = self.cache.prefetch(self.prefetcher.predict(observation), access.clock)
        self.layer_stats[access.layer].prefetch(access.phase, plan)
        if self.clock:
            self.clock.now += self.clock.profile.predict_s
            self.clock.submit(plan)
        if self.on_plan:
            self.on_plan(plan)

    def all(self, cold: bool) -> None:
        """Replay every visit."""
        trace, resets = self.trace, frozenset(self.trace.resets)
        sequences = trace.sequence.tolist()
        before = sequences[0] if sequences else 0
        tokens = [1] * len(trace) if trace.tokens is None else trace.tokens.tolist()
        for access, sequence, count in zip(trace.accesses(), sequences, tokens, strict=True):
            if access.clock in resets:
                self.reset()
            if sequence != before:
                if cold:
                    self.restart()
                before = sequence
            self.visit(access, count)
        self._finish()
