"""Replays a trace with the same cache, policy and prefetcher that run live.

Without a timed profile it only counts; with one it also models time: a link, and fixed costs of a
visit, an expert and a pass. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.cache.stats import CacheStats
from moex.decisions.governor import Governor
from moex.decisions.rerouter import Swaps, choose
from moex.prefetch.base import Observation
from moex.prefetch.none import NoPrefetch
from moex.runs.measured import measured
from moex.runs.report import Report
from moex.sim.check import check
from moex.sim.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moex.cache.core import ExpertCache
    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.routing.base import RoutingPolicy
    from moex.trace.format import Trace
    from moex.types import Access, Plan, Prediction


def simulate(
    trace: Trace,
    cache: ExpertCache,
    prefetcher: Prefetcher | None = None,
    hardware: HardwareProfile | None = None,
    cold: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    governor: Governor | None = None,
    routing: RoutingPolicy | None = None,
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
        routing: chooses experts anew from the recorded router rows; default: the model's own
            choice.

    Raises:
        ValueError: the trace lacks what the prefetcher needs, or is of another geometry.
    """
    prefetcher = prefetcher or NoPrefetch()
    check(trace, cache, prefetcher, routing)
    given = on_plan, governor or Governor(), routing
    run = _Replay(trace, cache, prefetcher, hardware, *given)
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
        governor: Governor,
        routing: RoutingPolicy | None,
    ) -> None:
        self.trace, self.cache, self.prefetcher, self.on_plan = trace, cache, prefetcher, on_plan
        self.layer_stats = [CacheStats(trace.geometry) for _ in range(trace.geometry.layers)]
        timed = hardware is not None and hardware.timed
        self.clock = Clock(hardware, trace.geometry, cache) if timed and hardware else None
        self.predicts, self.governor = not isinstance(prefetcher, NoPrefetch), governor
        self.access: Access | None = None
        self.routing, self.swaps = routing, Swaps()
        recorded = trace.provenance.get("routing")
        self.off_policy = recorded != (None if routing is None else routing.identity)
        self.cache.reset()
        if prefetcher.needs & {"future", "recorded"}:
            prefetcher.set_future(trace)
        self._forget()

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
        self._forget()

    def _forget(self) -> None:
        given = self.trace.geometry, self.cache.seed
        self.prefetcher.reset(*given)
        self.governor.reset()
        if self.routing is not None:
            self.routing.reset(*given)

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
        access, displaced = self._route(access)
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
                self._prefetch(access, displaced)
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

    def _route(self, access: Access) -> tuple[Access, tuple[Prediction, ...]]:
        """Choose experts anew where router rows are recorded; return those displaced, too."""
        if self.trace.router is None:
            return access, ()
        rows = self.trace.router[access.clock]
        choice = choose(self.routing, rows, self.cache, (access.clock, access.layer, access.phase))
        self.swaps.count(choice.rows, access.phase)
        same = bool((choice.rows.final == rows.final).all())
        self.off_policy = self.off_policy or not same
        if self.cache.selects and not same:
            raise ValueError(
                "routing with sparsity: other experts than in the recorded run, whose selected "
                "rows are not recorded; expected the run's own settings; try sparsity=none"
            )
        return access._replace(experts=choice.experts), choice.displaced

    def _prefetch(self, access: Access, displaced: tuple[Prediction, ...]) -> None:
        asked = self._ask(access) if self.predicts else None
        if asked is None and not displaced:
            return
        plan = self.cache.prefetch((*(asked or ()), *displaced), access.clock)
        self.layer_stats[access.layer].prefetch(access.phase, plan)
        if self.clock:
            if asked is not None:
                self.clock.now += self.clock.profile.predict_s
            self.clock.submit(plan)
        if self.on_plan:
            self.on_plan(plan)

    def _ask(self, access: Access) -> Sequence[Prediction] | None:
        """Return what the prefetcher predicts; None while it is paused."""
        observation = Observation(access, self.trace.lookahead_rows(access.clock))
        self.prefetcher.observe(observation)
        if not self.governor.allows(access):
            self.layer_stats[access.layer].paused(access.phase)
            return None
        return self.prefetcher.predict(observation)

    def report(self) -> Report:
        """End the replay and return its result row."""
        self._finish()
        cache, trace = self.cache, self.trace
        report = Report(
            source="sim",
            mode="simulate",
            policy=type(cache.prototype).__name__,
            prefetcher=type(self.prefetcher).__name__,
            governor=self.governor.state if self.predicts else None,
            link="modelled" if self.clock else "none",
            slots=cache.slots,
            pool=cache.pool,
            capacity_bytes=int(cache.total_slots * trace.geometry.expert_bytes * cache.slot_share),
            oracle="future" in cache.prototype.needs | self.prefetcher.needs,
        )
        report.fill(
            *measured(self.layer_stats, self.clock.phases if self.clock else None, cache.by_rows),
            tokens_decode=trace.tokens_of(prefill=False),
            tokens_prefill=trace.tokens_of(prefill=True),
            off_policy=self.off_policy,
            **self.swaps.rates,
        )
        return report
