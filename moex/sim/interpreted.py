"""The interpreted replay: the events of a run in the order of the live runner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.decisions.rerouter import choose
from moex.prefetch.base import Observation
from moex.sim.clock import Clock
from moex.sim.shards import Totals
from moex.trace.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moex.cache.core import ExpertCache
    from moex.decisions.governor import Governor
    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.routing.base import RoutingPolicy
    from moex.trace.stream import TraceStream
    from moex.types import Access, Expert, Plan, Prediction

LONG = 1 << 20
"""Visits of a replay that shows on a terminal how far it is."""


class InterpretedReplay:
    """The state of one replay."""

    def __init__(
        self,
        trace: Trace | TraceStream,
        cache: ExpertCache,
        prefetcher: Prefetcher,
        hardware: HardwareProfile | None,
        on_plan: Callable[[Plan], None] | None,
        governor: Governor,
        routing: RoutingPolicy | None,
    ) -> None:
        self.trace, self.cache, self.prefetcher, self.on_plan = trace, cache, prefetcher, on_plan
        self.totals = Totals(trace.geometry)
        self.layer_stats = self.totals.layer_stats
        timed = hardware is not None and hardware.timed
        self.clock = Clock(hardware, trace.geometry, cache) if timed and hardware else None
        self.predicts, self.governor = prefetcher.predicts, governor
        self.awaits_residents = cache.by_rows
        """Whether a resident may still be on its way."""
        self.access: Access | None = None
        self.routing, recorded = routing, trace.provenance.get("routing")
        self.totals.off_policy = recorded != (None if routing is None else routing.identity)
        self.cache.reset()
        if "future" in prefetcher.needs:
            assert isinstance(trace, Trace)
            prefetcher.set_future(trace)
        governor.reset()
        if routing is not None:
            routing.reset(trace.geometry, cache.seed)

    def replay(self, start: int, stop: int, cold: bool) -> None:
        """Replay the visits from `start` to `stop`."""
        resets, before = frozenset(self.trace.resets), None
        for chunk in watched(self.trace, start, stop):
            self._begin(chunk)
            tokens = [1] * len(chunk) if chunk.tokens is None else chunk.tokens.tolist()
            visits = zip(chunk.accesses(), chunk.sequence.tolist(), tokens, strict=True)
            for access, sequence, count in visits:
                if access.clock in resets:
                    self.reset()
                if sequence != before:
                    if cold and before is not None:
                        self.restart()
                    before = sequence
                self.visit(access, count)
        self._finish()

    def _begin(self, chunk: Trace) -> None:
        """Go on with a chunk, to which all that is recorded of its visits belongs."""
        self.totals.count_tokens(chunk)
        if "recorded" in self.prefetcher.needs:
            self.prefetcher.set_future(chunk)
        if self.access is None:
            self.prefetcher.reset(chunk.geometry, self.cache.seed)
        self.chunk = chunk

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
            self._submit(plan)

    def visit(self, access: Access, tokens: int) -> None:
        """Replay one layer visit; the order of everything is the live runner's."""
        access, displaced = self._route(access)
        self.access = access
        phase, clock, on_plan = access.phase, self.clock, self.on_plan
        cache_stats = self.layer_stats[access.layer]
        needs: Sequence[int | None] = ()
        if self.cache.selects:
            needs = self.chunk.needs(access.clock)
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
            self.awaits_residents = self.awaits_residents or bool(plan.deferred)
            if self.predicts:
                self.governor.count(access, plan)
            if plan.last:
                self._prefetch(access, displaced)
            if clock:
                late += self._compute(plan, clock)
            else:
                awaited = len(plan.transfers) > len(plan.deferred)
                waited = waited or awaited or bool(plan.host or plan.due)
        if clock:
            waited = clock.end_visit()
        cache_stats.waited(phase, late, waited)

    def _compute(self, plan: Plan, clock: Clock) -> int:
        """Serve residents, what is due, prefetches, loads, the host; return the late hits."""
        late, load_s, low = 0, clock.profile.load_s, dict(plan.low)
        if plan.host:
            clock.begin_host(len(plan.host))
        if not self.awaits_residents and not plan.partial:
            clock.now += clock.expert_s * (len(plan.hits) - len(plan.prefetched))
        else:
            for _, slot in plan.residents:
                clock.wait(slot)  # for prefetched rows, or a load in the background
                clock.now += clock.expert_s
        for _, slot in plan.due:  # loaded before what this plan loads
            clock.wait(slot)
            clock.now += clock.expert_s + load_s
        for expert, slot, prefetched in plan.arrivals:
            late += clock.wait(slot) and prefetched
            if expert in low:
                clock.wait(low[expert])
            clock.now += clock.expert_s + load_s
        if plan.host:
            clock.wait_host()
        return late

    def _route(self, access: Access) -> tuple[Access, tuple[Expert, ...]]:
        """Choose experts anew where router rows are recorded; return those displaced, too."""
        if self.chunk.router is None:
            return access, ()
        rows = self.chunk.router[access.clock - self.chunk.first]
        choice = choose(self.routing, rows, self.cache, (access.clock, access.layer, access.phase))
        totals, same = self.totals, bool((choice.rows.final == rows.final).all())
        totals.swaps.count(choice.rows, access.phase)
        totals.off_policy = totals.off_policy or not same
        if self.cache.selects and not same:
            raise ValueError(
                "routing with sparsity: other experts than in the recorded run, whose selected "
                "rows are not recorded; expected the run's own settings; try sparsity=none"
            )
        return access._replace(experts=choice.experts), choice.displaced

    def _prefetch(self, access: Access, displaced: tuple[Expert, ...]) -> None:
        """Submit what is predicted, and behind it what routing displaced."""
        cache_stats, phase = self.layer_stats[access.layer], access.phase
        asked = self._ask(access) if self.predicts else None
        if asked is not None:
            plan = self.cache.prefetch(asked, access.clock)
            cache_stats.prefetch(phase, plan)
            if self.clock:
                self.clock.now += self.clock.profile.predict_s
            self._submit(plan)
        if displaced:
            plan = self.cache.admit(displaced, access)
            cache_stats.background(phase, plan)
            self.awaits_residents = True
            self._submit(plan)

    def _submit(self, plan: Plan) -> None:
        if self.clock:
            self.clock.submit(plan)
        if self.on_plan:
            self.on_plan(plan)

    def _ask(self, access: Access) -> Sequence[Prediction] | None:
        """Return what the prefetcher predicts; None while it is paused."""
        observation = Observation(access, self.chunk.lookahead_rows(access.clock))
        self.prefetcher.observe(observation)
        if not self.governor.allows(access):
            self.layer_stats[access.layer].paused(access.phase)
            return None
        predictions = self.prefetcher.predict(observation)
        self.cache.forecast(predictions, access)
        return predictions


def watched(trace: Trace | TraceStream, start: int, stop: int) -> Iterator[Trace]:
    """Yield the chunks of a replay; on a terminal a long one shows how far it is."""
    if stop - start < LONG:
        yield from trace.chunks(start, stop)
        return
    from tqdm import tqdm

    shown = {"unit": " visits", "unit_scale": True, "disable": None, "leave": False}
    with tqdm(total=stop - start, **shown) as bar:
        for chunk in trace.chunks(start, stop):
            yield chunk
            bar.update(len(chunk))
