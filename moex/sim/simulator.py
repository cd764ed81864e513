"""Replays a trace with the same cache, policy and prefetcher that run live.

Without a timed profile it only counts; with one it also models time: a link, and fixed costs of a
visit, an expert and a pass. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.cache.stats import CacheStats
from moex.prefetch.base import Observation
from moex.prefetch.none import NoPrefetch
from moex.runs.report import Report
from moex.sim.check import check
from moex.sim.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moex.cache.core import ExpertCache
    from moex.cache.row_cache import RowCache
    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.trace.format import Trace
    from moex.types import Access, Plan


def simulate(
    trace: Trace,
    cache: ExpertCache,
    prefetcher: Prefetcher | None = None,
    hardware: HardwareProfile | None = None,
    cold: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    neurons: RowCache | None = None,
) -> Report:
    """Replay every visit of the trace.

    Args:
        trace: the recorded routing.
        cache: a fresh or reusable cache; it is reset first.
        prefetcher: default none.
        hardware: a timed profile for seconds; None or an untimed one for counts only.
        cold: start every sequence with an empty cache and fresh policies (else they carry over).
        on_plan: called with every plan, as a live run would execute it.
        neurons: the row cache over `cache`; only the rows that the run selected are moved.

    Raises:
        ValueError: the trace lacks what the prefetcher needs, or is of another geometry.
    """
    prefetcher = prefetcher or NoPrefetch()
    check(trace, cache, prefetcher, neurons)
    run = _Replay(trace, cache, prefetcher, hardware, on_plan, neurons)
    sequences = trace.sequence.tolist()
    before = sequences[0] if sequences else 0
    resets = frozenset(trace.resets)
    tokens = [1] * len(trace) if trace.tokens is None else trace.tokens.tolist()
    for access, sequence, count in zip(trace.accesses(), sequences, tokens, strict=True):
        if access.clock in resets:
            run.reset()
        if sequence != before:
            if cold:
                run.restart()
            before = sequence
        run.visit(access, count)
    return run.report()


class _Replay:
    """The state of one replay."""

    def __init__(
        self,
        trace: Trace,
        cache: ExpertCache,
        prefetcher: Prefetcher,
        hardware: HardwareProfile | None,
        on_plan: Callable[[Plan], None] | None,
        neurons: RowCache | None,
    ) -> None:
        self.trace, self.cache, self.prefetcher, self.on_plan = trace, cache, prefetcher, on_plan
        self.neurons, self.residency = neurons, neurons or cache
        self.layer_stats = [CacheStats(trace.geometry) for _ in range(trace.geometry.layers)]
        timed = hardware is not None and hardware.timed
        share = neurons.capacity / trace.geometry.intermediate if neurons else 1.0
        self.clock = Clock(hardware, trace.geometry, share) if timed and hardware else None
        self.predicts = not isinstance(prefetcher, NoPrefetch)
        self.access: Access | None = None
        self.residency.reset()
        if prefetcher.needs & {"future", "recorded"}:
            prefetcher.set_future(trace)
        prefetcher.reset(trace.geometry, cache.seed)

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
        self.residency.reset()
        self.prefetcher.reset(self.trace.geometry, self.cache.seed)

    def _finish(self) -> None:
        if self.access is not None:
            plan = self.residency.finish(self.access.clock)
            self.layer_stats[self.access.layer].dropped(self.access.phase, plan)
            if self.clock:
                self.clock.submit(plan)
            if self.on_plan:
                self.on_plan(plan)

    def visit(self, access: Access, tokens: int) -> None:
        """Replay one layer visit; the order of everything is the live runner's."""
        self.access = access
        phase, clock, on_plan = access.phase, self.clock, self.on_plan
        if clock:
            clock.now += clock.profile.visit_s
            clock.now += clock.profile.select_s if self.neurons else 0.0
            if access.layer == 0:
                clock.now += clock.profile.pass_s
                clock.phases[phase].passes += 1
                clock.phases[phase].tokens += tokens
        late, stall = 0, 0.0
        waited, cache_stats = False, self.layer_stats[access.layer]
        for plan in self._plans(access):
            if on_plan:
                on_plan(plan)
            cache_stats.demand(phase, plan)
            if clock:
                clock.submit(plan)
            if plan.last and self.predicts:
                self._prefetch(access)
            waited = waited or bool(plan.transfers or plan.host)
            if clock:
                late_now, stall_now = self._compute(plan, clock)
                late += late_now
                stall += stall_now
        if clock:
            clock.end_visit(phase, stall)
            waited = stall > 0
        cache_stats.waited(phase, late, waited)

    def _compute(self, plan: Plan, clock: Clock) -> tuple[int, float]:
        """Serve residents, then prefetches, loads, the host: (late hits, seconds waited)."""
        load_s = clock.profile.load_s
        late, stall = 0, 0.0
        if plan.host:
            clock.begin_host(len(plan.host))
        if self.neurons is None:
            clock.now += clock.expert_s * (len(plan.hits) - len(plan.prefetched))
        else:
            for _, slot in plan.residents:
                stall += clock.wait(slot)  # for rows that were prefetched
                clock.now += clock.expert_s
        for _, slot, prefetched in plan.arrivals:
            waited = clock.wait(slot)
            late += waited > 0 and prefetched
            stall += waited
            clock.now += clock.expert_s + load_s
        if plan.host:
            stall += clock.wait_host()
        return late, stall

    def _plans(self, access: Access) -> Iterator[Plan]:
        if self.neurons:
            needs = self.trace.needs(access.clock)
            self.layer_stats[access.layer].selected(access.phase, needs)
            return self.neurons.request(access, needs)
        return self.cache.request(access)

    def _prefetch(self, access: Access) -> None:
        observation = Observation(access, self.trace.lookahead_rows(access.clock))
        self.prefetcher.observe(observation)
        plan = self.residency.prefetch(self.prefetcher.predict(observation), access.clock)
        self.layer_stats[access.layer].prefetch(access.phase, plan)
        if self.clock:
            self.clock.now += self.clock.profile.predict_s
            self.clock.submit(plan)
        if self.on_plan:
            self.on_plan(plan)

    def report(self) -> Report:
        """End the replay and return its result row."""
        self._finish()
        cache, report = self.cache, Report(source="sim", mode="simulate")
        report.policy = type(cache.prototype).__name__
        report.prefetcher = type(self.prefetcher).__name__
        report.slots, report.pool = cache.slots, cache.pool
        share = self.neurons.capacity / self.trace.geometry.intermediate if self.neurons else 1.0
        report.capacity_bytes = int(cache.total_slots * self.trace.geometry.expert_bytes * share)
        report.oracle = "future" in cache.prototype.needs | self.prefetcher.needs
        report.link = "modelled" if self.clock else "none"
        report.fill(self.layer_stats, self.clock.phases if self.clock else None)
        report.tokens_decode = self.trace.tokens_of(prefill=False)
        report.tokens_prefill = self.trace.tokens_of(prefill=True)
        return report
