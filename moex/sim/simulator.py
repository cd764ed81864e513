"""Replays a trace through the very cache, policy and prefetcher that run live.

Without a timed profile it counts; with one it also keeps a clock: a link (`moex.sim.link`) and
fixed costs for a visit, an expert and a pass. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.cache.ledger import Ledger
from moex.prefetch.base import Observation
from moex.prefetch.none import NoPrefetch
from moex.report import Clocked, Report
from moex.sim.link import LinkTimeline
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.cache.core import ExpertCache
    from moex.prefetch.base import Prefetcher
    from moex.sim.hardware import HardwareProfile
    from moex.sim.link import Transfer
    from moex.trace.format import Trace
    from moex.types import Access, Plan


class _Clock:
    """A virtual machine: one compute lane, one link, and the host as a second compute lane."""

    def __init__(self, profile: HardwareProfile, expert_bytes: int) -> None:
        assert profile.link_bytes_per_s is not None
        self.profile, self.expert_bytes = profile, expert_bytes
        self.link = LinkTimeline(
            profile.link_bytes_per_s, profile.link_latency_s, profile.chunk_bytes
        )
        self.now, self.host_free_at = 0.0, 0.0
        self.host_s = profile.host_seconds(expert_bytes)
        self.waiting: dict[int, Transfer] = {}
        self.phases = {PREFILL: Clocked(), DECODE: Clocked()}
        self._mark = (0.0, 0.0, 0)

    def submit(self, plan: Plan) -> None:
        for gone in plan.dropped:
            transfer = self.waiting.pop(gone.slot, None)
            if transfer is not None:
                self.link.cancel(self.now, transfer)
        for load in plan.loads:
            self.waiting[load.slot] = self.link.submit(
                self.now, self.expert_bytes, load.speculative
            )
        if plan.loads:  # the transfer has begun while the computing lane is still busy with it
            self.now += self.profile.submit_s

    def wait(self, slot: int) -> float:
        """Let the compute lane wait for a place; return for how long it did."""
        transfer = self.waiting.pop(slot, None)
        if transfer is None:
            return 0.0
        stall = max(0.0, self.link.arrival(self.now, transfer) - self.now)
        self.now += stall
        return stall

    def begin_host(self, experts: int) -> None:
        """Let the host compute so many experts, one after the other."""
        if self.host_s is None:
            raise ValueError(
                f"hardware={self.profile.name}: does not say how fast its host computes an expert, "
                "which this way of handling misses needs; try hardware.host_expert_s=0.002"
            )
        self.host_free_at = max(self.now, self.host_free_at) + experts * self.host_s

    def wait_host(self) -> float:
        """Let the compute lane wait for the host; return for how long it did."""
        stall = max(0.0, self.host_free_at - self.now)
        self.now += stall
        return stall

    def end_visit(self, phase: str, stall: float) -> None:
        """Book the time and the link's work since the last visit ended."""
        clocked = self.phases[phase]
        self.link.advance(self.now)
        now, busy, moved = self._mark
        clocked.seconds += self.now - now
        clocked.stall_s += stall
        clocked.link_busy_s += self.link.busy_s - busy
        clocked.bytes_moved += self.link.bytes_moved - moved
        self._mark = (self.now, self.link.busy_s, self.link.bytes_moved)


def simulate(
    trace: Trace,
    cache: ExpertCache,
    prefetcher: Prefetcher | None = None,
    hardware: HardwareProfile | None = None,
    cold: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
) -> Report:
    """Replay every visit of the trace.

    Args:
        trace: the recorded routing.
        cache: a fresh or reusable cache; it is reset first.
        prefetcher: default none.
        hardware: a timed profile for seconds; None or an untimed one for counts only.
        cold: start every sequence with an empty cache and fresh policies (else they carry over).
        on_plan: called with every plan, as a live run would execute it.

    Raises:
        ValueError: the trace lacks what the prefetcher needs, or is of another geometry.
    """
    prefetcher = prefetcher or NoPrefetch()
    _check(trace, cache, prefetcher)
    run = _Replay(trace, cache, prefetcher, hardware, on_plan)
    sequences = trace.sequence.tolist()
    before = sequences[0] if sequences else 0
    tokens = [1] * len(trace) if trace.tokens is None else trace.tokens.tolist()
    for access, sequence, count in zip(trace.accesses(), sequences, tokens, strict=True):
        if sequence != before:
            if cold:
                run.restart()
            before = sequence
        run.visit(access, count)
    return run.report()


def _check(trace: Trace, cache: ExpertCache, prefetcher: Prefetcher) -> None:
    ours, theirs = cache.geometry, trace.geometry
    if (ours.layers, ours.experts, ours.top_k) != (theirs.layers, theirs.experts, theirs.top_k):
        raise ValueError(
            f"trace: recorded on {theirs.layers} layers x {theirs.experts} experts, top-"
            f"{theirs.top_k}, but the cache is for {ours.layers} x {ours.experts}, top-{ours.top_k}"
        )
    if "lookahead" in prefetcher.needs and trace.lookahead is None:
        raise ValueError(
            f"trace: holds no gate-lookahead scores, which {type(prefetcher).__name__} needs; "
            "record it with: python run.py mode=live (any prefetcher)"
        )
    if "recorded" in prefetcher.needs and trace.predictions is None:
        raise ValueError(
            f"trace: holds no predictions, which {type(prefetcher).__name__} replays; "
            "record them with: python run.py mode=live prefetch=gate (or any other)"
        )
    lacking = prefetcher.needs & {"hidden", "router_logits", "tokens"}
    if lacking:
        raise ValueError(
            f"trace: holds no {', '.join(sorted(lacking))}, which {type(prefetcher).__name__} "
            "needs; replay a run made with it using prefetch=recorded"
        )


class _Replay:
    """The state of one replay."""

    def __init__(
        self,
        trace: Trace,
        cache: ExpertCache,
        prefetcher: Prefetcher,
        hardware: HardwareProfile | None,
        on_plan: Callable[[Plan], None] | None,
    ) -> None:
        self.trace, self.cache, self.prefetcher, self.on_plan = trace, cache, prefetcher, on_plan
        self.ledger = Ledger(trace.geometry.expert_bytes)
        timed = hardware is not None and hardware.timed
        self.clock = _Clock(hardware, trace.geometry.expert_bytes) if timed and hardware else None
        self.predicts = not isinstance(prefetcher, NoPrefetch)
        self.access: Access | None = None
        cache.reset()
        if prefetcher.needs & {"future", "recorded"}:
            prefetcher.foresee(trace)
        prefetcher.reset(trace.geometry, cache.seed)

    def restart(self) -> None:
        """Begin a sequence cold."""
        self._finish()
        self.cache.reset()
        self.prefetcher.reset(self.trace.geometry, self.cache.seed)

    def _finish(self) -> None:
        if self.access is not None:
            plan = self.cache.finish(self.access.clock)
            self.ledger.dropped(self.access.phase, plan)
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
            if access.layer == 0:
                clock.now += clock.profile.pass_s
                clock.phases[phase].passes += 1
                clock.phases[phase].tokens += tokens
        late, stall = 0, 0.0
        waited = False
        for plan in self.cache.request(access):
            if on_plan:
                on_plan(plan)
            self.ledger.demand(phase, plan)
            if clock:
                clock.submit(plan)
            if plan.last and self.predicts:
                self._prefetch(access)
            waited = waited or bool(plan.loads or plan.host)
            if clock:
                late_now, stall_now = self._compute(plan, clock)
                late += late_now
                stall += stall_now
        if clock:
            clock.end_visit(phase, stall)
            waited = stall > 0
        self.ledger.waited(phase, late, waited)

    def _compute(self, plan: Plan, clock: _Clock) -> tuple[int, float]:
        """Serve residents first, then guesses, loads, the host: (late hits, seconds waited)."""
        expert_s, load_s = clock.profile.expert_s, clock.profile.load_s
        late, stall = 0, 0.0
        if plan.host:
            clock.begin_host(len(plan.host))
        clock.now += expert_s * (len(plan.hits) - len(plan.guessed))
        for expert in plan.guessed:
            waited = clock.wait(plan.places[plan.hits.index(expert)])
            late += waited > 0
            stall += waited
            clock.now += expert_s + load_s
        for load in plan.loads:
            stall += clock.wait(load.slot)
            clock.now += expert_s + load_s
        if plan.host:
            stall += clock.wait_host()
        return late, stall

    def _prefetch(self, access: Access) -> None:
        observation = Observation(access, self.trace.lookahead_rows(access.clock))
        self.prefetcher.observe(observation)
        plan = self.cache.prefetch(self.prefetcher.predict(observation), access.clock)
        self.ledger.prefetch(access.phase, plan)
        if self.clock:
            self.clock.now += self.clock.profile.predict_s
            self.clock.submit(plan)
        if self.on_plan:
            self.on_plan(plan)

    def report(self) -> Report:
        """Close the books."""
        self._finish()
        cache, report = self.cache, Report(source="sim", mode="simulate")
        report.policy = type(cache.prototype).__name__
        report.prefetcher = type(self.prefetcher).__name__
        report.slots, report.pool = cache.slots, cache.pool
        report.capacity_bytes = cache.places * self.trace.geometry.expert_bytes
        report.oracle = "future" in cache.prototype.needs | self.prefetcher.needs
        report.link = "modelled" if self.clock else "none"
        report.book(self.ledger, self.clock.phases if self.clock else None)
        report.tokens_decode = self.trace.tokens_of(prefill=False)
        report.tokens_prefill = self.trace.tokens_of(prefill=True)
        return report
