"""Statistics of plans: the same counts for live and simulated runs.

Definitions are in analysis/README.md#metrics. A prefetch counts in the phase in which it ends, used
or dropped, so that used ones never exceed issued ones: a prefetch of a prompt's last layer may be
used by the first decoded token. What depends on the clock (late hits, waits, bytes that really
moved) is reported by the runner or the simulator; everything else is decided by logical time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moex.types import Eviction, Geometry, Load, Plan


@dataclass
class Counts:
    """Sums over one phase. An access is one distinct expert in one layer visit."""

    visits: int = 0
    requests: int = 0
    resident_hits: int = 0
    prefetched_hits: int = 0
    prefetch_used: int = 0
    late_hits: int = 0
    demand_misses: int = 0
    partial_hits: int = 0
    host_computed: int = 0
    skipped: int = 0
    deferred: int = 0
    waited_visits: int = 0
    paused_visits: int = 0
    prefetch_issued: int = 0
    prefetch_wasted: int = 0
    background_loads: int = 0
    bytes_selected: int = 0
    bytes_wanted: int = 0
    bytes_demand: int = 0
    bytes_prefetch: int = 0
    bytes_wasted: int = 0
    host_hits: int = 0
    host_loads: int = 0


@dataclass
class CacheStats:
    """Counts what plans do, by phase."""

    geometry: Geometry
    phases: dict[str, Counts] = field(default_factory=lambda: {PREFILL: Counts(), DECODE: Counts()})

    @classmethod
    def total(cls, layer_stats: Sequence[CacheStats]) -> CacheStats:
        """Return the sum of the statistics of several layers of one model."""
        total = cls(layer_stats[0].geometry)
        for cache_stats in layer_stats:
            for phase, counts in cache_stats.phases.items():
                for name, value in asdict(counts).items():
                    setattr(total.phases[phase], name, getattr(total.phases[phase], name) + value)
        return total

    def snapshot(self) -> list[dict[str, int]]:
        """Return the current counts, for `restore`; taken at every live visit, so it is cheap."""
        return [dict(vars(counts)) for counts in self.phases.values()]

    def restore(self, snapshot: list[dict[str, int]]) -> None:
        """Set the counts back to those of a snapshot."""
        for counts, before in zip(self.phases.values(), snapshot, strict=True):
            vars(counts).update(before)

    def demand(self, phase: str, plan: Plan) -> None:
        """Count one wave of a visit."""
        # Unpacked at once and not by name: a replay counts millions of plans.
        _, hits, _, loads, _, prefetched, dropped, host, skipped, last = plan[:10]
        partial, transfers = plan.partial, plan.transfers
        counts = self.phases[phase]
        counts.visits += last
        counts.requests += len(hits) + len(loads) + len(host) + len(skipped)
        partly_prefetched = sum([expert in prefetched for expert in partial])
        counts.partial_hits += len(partial)
        counts.prefetch_used += len(prefetched)
        counts.prefetch_issued += len(prefetched)
        counts.prefetched_hits += len(prefetched) - partly_prefetched
        counts.resident_hits += len(hits) - len(prefetched) - len(partial) + partly_prefetched
        counts.demand_misses += len(loads) - len(plan.deferred)
        counts.deferred += len(plan.deferred)
        counts.host_computed += len(host)
        counts.skipped += len(skipped)
        counts.bytes_wanted += plan.wanted
        if transfers:
            counts.bytes_demand += self._size(transfers)
        if plan.sources:
            self._tier(counts, plan)
        if dropped or plan.unused:
            self.dropped(phase, plan)

    def selected(self, phase: str, needs: Sequence[int | None]) -> None:
        """Count the rows that a visit's experts need: bitmaps, None for all."""
        geometry = self.geometry
        width = geometry.intermediate
        rows = sum(width if need is None else need.bit_count() for need in needs)
        self.phases[phase].bytes_selected += rows * geometry.expert_bytes // width

    def prefetch(self, phase: str, plan: Plan) -> None:
        """Count the bytes of prefetches; the prefetches themselves are counted when they end."""
        counts = self.phases[phase]
        counts.bytes_prefetch += self._size(plan.transfers)
        self._tier(counts, plan)

    def background(self, phase: str, plan: Plan) -> None:
        """Count loads of experts that were admitted without being demanded."""
        self.phases[phase].background_loads += len(plan.loads)
        self.prefetch(phase, plan)
        self.dropped(phase, plan)

    def dropped(self, phase: str, plan: Plan) -> None:
        """Count dropped prefetches, and prefetched rows that were not used."""
        counts = self.phases[phase]
        counts.prefetch_wasted += len(plan.dropped)
        counts.prefetch_issued += len(plan.dropped)
        counts.bytes_wasted += self._size(plan.dropped) + self._size(plan.unused)

    def paused(self, phase: str) -> None:
        """Count a visit in which the prefetcher was not asked."""
        self.phases[phase].paused_visits += 1

    def waited(self, phase: str, late: int, any_wait: bool) -> None:
        """Count a visit's late hits (still being loaded), and whether it waited."""
        counts = self.phases[phase]
        counts.late_hits += late
        counts.waited_visits += any_wait

    @staticmethod
    def _tier(counts: Counts, plan: Plan) -> None:
        """Count loads, prefetches too, by whether the host tier holds the expert."""
        hits = sum(source.hit for source in plan.sources)
        counts.host_hits += hits
        counts.host_loads += len(plan.sources) - hits

    def _size(self, moved: Iterable[Load | Eviction]) -> int:
        return sum(self.geometry.size(each.rows, each.span) for each in moved)


def by_layer(layer_stats: Sequence[CacheStats]) -> list[dict[str, Any]]:
    """Return the decoding counts of every layer; a prefetch counts in the layer that used it."""
    rows = []
    for layer, counts in enumerate(cache_stats.phases[DECODE] for cache_stats in layer_stats):
        row = {
            "layer": layer,
            "visits": counts.visits,
            "requests": counts.requests,
            "resident_hits": counts.resident_hits,
            "prefetch_hits": counts.prefetched_hits - counts.late_hits,
            "late_hits": counts.late_hits,
            "partial_hits": counts.partial_hits,
            "demand_misses": counts.demand_misses,
            "deferred": counts.deferred,
            "loads": counts.prefetch_used + counts.demand_misses + counts.deferred,
            "waited_visits": counts.waited_visits,
        }
        rows.append({**row, "hit_rate": counts.resident_hits / max(counts.requests, 1)})
    return rows
