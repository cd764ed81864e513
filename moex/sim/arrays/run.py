"""Replays of traces that are compiled: what they need, what is compiled for them, what they find.

The result is that of the interpreted replay in every field; `refusal` says what has no compiled
form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moex.cache.core import ExpertCache
from moex.cache.limits import uneven
from moex.cache.pool import scopes
from moex.cache.stats import CacheStats, Counts
from moex.cache.variants.tiers import TieredCache
from moex.decisions.governor import begin
from moex.runs.measured import Clocked
from moex.sim.arrays.clock import machine
from moex.sim.arrays.compile import array_form, call, compiled_replay
from moex.sim.arrays.events import events
from moex.sim.arrays.link import BYTES, LINK_BUSY, PASSES, SECONDS, STALLED, TOKENS
from moex.sim.arrays.replay import COUNTED, Events, Run, Settings, finish
from moex.sim.arrays.residency import Residency, Visit, empty
from moex.sim.clock import Clock
from moex.sim.shards import Totals
from moex.trace.trace import Trace
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from moex.cache.array_policy import ArrayPolicy
    from moex.decisions.governor import Governor
    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.trace.stream import TraceStream

WORTH_IT = 300_000
"""Accesses from which on a replay is compiled: fewer are interpreted in the time that loading what
was compiled takes."""


def refusal(
    trace: Trace | TraceStream,
    cache: ExpertCache,
    prefetcher: Prefetcher,
    on_plan: object,
    compiled: bool | None,
    visits: tuple[int, int],
) -> str | None:
    """Return why a replay is interpreted, in a few words; None if it is compiled.

    The arguments are those of `replayed`.
    """
    policy = cache.prototype
    if compiled is False:
        return "asked for"
    if (special := _special(cache)) is not None:
        return special
    if not array_form(policy):
        return f"cache={type(policy).__name__} is not in array form"
    if prefetcher.predicts and not prefetcher.repeatable:
        return f"prefetch={type(prefetcher).__name__} is asked visit by visit"
    if on_plan is not None:
        return "plans are asked for"
    if trace.has("router"):
        return "experts are chosen anew, visit by visit"
    whole = isinstance(trace, Trace) and visits == (0, len(trace))
    if "future" in policy.needs | prefetcher.needs and not whole:
        return "the future reaches beyond a part of the trace"
    if compiled is None and trace.accesses_count < WORTH_IT:
        return f"the trace has fewer than {WORTH_IT} accesses"
    return None


def _special(cache: ExpertCache) -> str | None:
    """Return what of a cache has no compiled form."""
    if isinstance(cache, TieredCache):
        return "a host tier"
    if cache.low_slots:
        return "experts are held in slices"
    if type(cache) is not ExpertCache or cache.selects:
        return "only selected neurons are computed"
    if cache.split is not None:
        return "a miss handler shares out the misses"
    if uneven(cache.layer_slots) or not cache.slots:
        return "layers have different numbers of slots, or none"
    return None


def replay_compiled(
    trace: Trace | TraceStream,
    parts: Iterable[Trace],
    cache: ExpertCache,
    prefetcher: Prefetcher,
    hardware: HardwareProfile | None,
    cold: bool,
    governor: Governor,
) -> tuple[Totals, dict[str, Clocked] | None]:
    """Replay a trace; return what was counted, and of both phases the clock's times.

    The arguments are those of `simulate`; `parts` are the trace's, in order: one, if the future is
    needed.

    Raises:
        NotCompiled: a rule of the policy does not compile.
    """
    timed = hardware if hardware is not None and hardware.timed else None
    run = CompiledReplay(cache, timed, prefetcher.predicts, governor.least)
    totals, before = Totals(trace.geometry), None
    future = "future" in cache.prototype.needs
    for part in parts:
        predictions = None
        if prefetcher.needs & {"future", "recorded"}:
            prefetcher.set_future(part)
        if before is None:
            prefetcher.reset(trace.geometry, cache.seed)
        if prefetcher.predicts:
            predictions = prefetcher.predictions(part)
        run.feed(events(part, cold, future, predictions, before))
        totals.count_tokens(part)
        before = int(part.sequence[-1])
    totals.layer_stats, times = run.finish()
    return totals, times


class CompiledReplay:
    """The state of one compiled replay; `feed` it the visits, in order, then `finish`.

    Args:
        cache: whose policy, slots, pools and staging are replayed; it is left as it is.
        hardware: a timed profile; None for counts only.
        predicts: whether there is a prefetcher.
        least: what the governor demands; None for none.
    """

    def __init__(
        self,
        cache: ExpertCache,
        hardware: HardwareProfile | None = None,
        predicts: bool = False,
        least: float | None = None,
    ) -> None:
        geometry, policy = cache.geometry, cache.prototype
        own = scopes(cache.layer_slots, cache.pool, geometry, cache.seed, None)
        width = len(own[0].layers)
        self.cache, self.timed = cache, hardware is not None
        spare = cache.staging - geometry.top_k
        self.settings = Settings(geometry.experts, width, spare, float(least or 0.0))
        experts, slots = geometry.layers * geometry.experts, cache.total_slots
        residency = _residency(experts, slots, len(own), own[0].capacity)
        self.counts = np.zeros((geometry.layers, 2, len(COUNTED)), np.int64)
        governing = np.zeros(5, np.int64)
        begin(governing)
        states = _states(policy, own)  # type: ignore[arg-type]
        self.entry = compiled_replay(policy, tuple(states), self.timed, predicts)
        clock = Clock(hardware, geometry, cache) if hardware is not None else None
        self.machine = machine(clock, cache)
        fresh = tuple(states.values())
        self.run = Run(
            residency,
            _visit(experts, slots),
            self.machine,
            self.counts,
            np.full(2, -1, np.int64),
            governing,
            tuple(state.copy() for state in fresh),
            fresh,
        )

    def feed(self, visits: Events) -> None:
        """Replay visits."""
        call(self.entry, visits, self.settings, *self.run)

    def finish(self) -> tuple[list[CacheStats], dict[str, Clocked] | None]:
        """End the replay; return the statistics of every layer, and of both phases the clock's."""
        finish(self.settings, self.run)
        stats = [self._stats(counts) for counts in self.counts.tolist()]
        return stats, self._clocked() if self.timed else None

    def _stats(self, phases: list[list[int]]) -> CacheStats:
        geometry = self.cache.geometry
        found = {}
        for phase, counts in zip((DECODE, PREFILL), phases, strict=True):
            named = dict(zip(COUNTED, counts, strict=True))
            used, wasted, issued = (
                named[name] for name in ("prefetched_hits", "prefetch_wasted", "prefetches")
            )
            del named["prefetches"]
            found[phase] = Counts(
                **named,
                prefetch_used=used,
                prefetch_issued=used + wasted,
                bytes_demand=named["demand_misses"] * geometry.expert_bytes,
                bytes_prefetch=issued * geometry.expert_bytes,
                bytes_wasted=wasted * geometry.expert_bytes,
            )
        return CacheStats(geometry, {PREFILL: found[PREFILL], DECODE: found[DECODE]})

    def _clocked(self) -> dict[str, Clocked]:
        counted, clocked = self.machine.counted.tolist(), self.machine.clocked.tolist()
        found = {
            phase: Clocked(
                passes=counted[row][PASSES],
                tokens=counted[row][TOKENS],
                seconds=clocked[row][SECONDS],
                stall_s=clocked[row][STALLED],
                link_busy_s=clocked[row][LINK_BUSY],
                bytes_moved=counted[row][BYTES],
            )
            for row, phase in enumerate((DECODE, PREFILL))
        }
        return {PREFILL: found[PREFILL], DECODE: found[DECODE]}


def _residency(experts: int, slots: int, pools: int, capacity: int) -> Residency:
    residency = Residency(
        slot=np.zeros(experts, np.int64),
        flight=np.zeros(experts, np.int64),
        order=np.zeros(experts, np.int64),
        held=np.zeros((pools, capacity), np.int64),
        size=np.zeros(pools, np.int64),
        free=np.zeros(slots, np.int64),
        released=np.zeros(slots, np.int64),
        flying=np.zeros(slots, np.int64),
        number=np.zeros(5, np.int64),
    )
    empty(residency)
    return residency


def _visit(experts: int, slots: int) -> Visit:
    most = max(experts, slots)
    named = {name: np.zeros(most, np.int64) for name in Visit._fields}
    named["arriving"] = np.full(most, -1, np.int64)
    named["number"] = np.zeros(6, np.int64)
    return Visit(**named)


def _states(policy: ArrayPolicy, own: list[Any]) -> dict[str, NDArray[Any]]:
    """Return the state of all pools by name [pools, numbers]; there is one name at least."""
    pools = [policy.arrays(scope) for scope in own]
    found = {name: np.array([np.asarray(pool[name]) for pool in pools]) for name in pools[0]}
    return found or {"nothing": np.zeros((len(own), 1), np.int64)}
