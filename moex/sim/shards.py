"""What a replay counts, its row, and shards: where caches start cold, their counts add up."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.cache.limits import uneven
from moex.cache.stats import CacheStats
from moex.cache.variants.tiers import described
from moex.decisions.rerouter import Swaps
from moex.prefetch.none import NoPrefetch
from moex.runs.measured import measured
from moex.runs.report import Report
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moex.cache.core import ExpertCache
    from moex.decisions.governor import Governor
    from moex.prefetch.base import Prefetcher
    from moex.runs.measured import Clocked
    from moex.trace.format import Trace
    from moex.trace.stream import TraceStream
    from moex.types import Geometry


class Totals:
    """What a replay counts: statistics of every layer, and tokens by phase."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.layer_stats = [CacheStats(geometry) for _ in range(geometry.layers)]
        self.tokens = {PREFILL: 0, DECODE: 0}
        self.swaps, self.off_policy = Swaps(), False

    def count_tokens(self, chunk: Trace) -> None:
        """Count the tokens of a chunk's passes."""
        self.tokens[PREFILL] += chunk.tokens_of(prefill=True)
        self.tokens[DECODE] += chunk.tokens_of(prefill=False)

    def plain(self) -> dict[str, Any]:
        """Return all counts as plain values, for JSON."""
        layers = [each.snapshot() for each in self.layer_stats]
        return {"geometry": [*self.geometry], "layers": layers, "tokens": self.tokens}

    def add(self, plain: dict[str, Any]) -> None:
        """Add the counts of another shard.

        Raises:
            ValueError: it is of another geometry.
        """
        if plain["geometry"] != [*self.geometry]:
            raise ValueError(
                f"shards: one is of the geometry {plain['geometry']}, the others of "
                f"{[*self.geometry]}; expected shards of one trace; try force=true"
            )
        for phase, tokens in plain["tokens"].items():
            self.tokens[phase] += tokens
        for stats, snapshot in zip(self.layer_stats, plain["layers"], strict=True):
            sums = [
                {name: old + counts[name] for name, old in before.items()}
                for before, counts in zip(stats.snapshot(), snapshot, strict=True)
            ]
            stats.restore(sums)


def row(
    trace: Trace | TraceStream,
    cache: ExpertCache,
    prefetcher: Prefetcher | None,
    governor: Governor,
    totals: Totals,
    times: Mapping[str, Clocked] | None = None,
) -> Report:
    """Return the result row of what a replay counted, and of the times of its clock."""
    prefetcher = prefetcher or NoPrefetch()
    report = Report(
        source="sim",
        mode="simulate",
        policy=type(cache.prototype).__name__,
        prefetcher=type(prefetcher).__name__,
        governor=governor.state if prefetcher.predicts else None,
        link="modelled" if times else "none",
        slots=cache.whole_slots,
        layer_slots=uneven(cache.layer_slots),
        pool=cache.pool,
        capacity_bytes=cache.capacity_bytes,
        oracle="future" in cache.prototype.needs | prefetcher.needs,
        shards=1,
    )
    report.fill(
        *measured(totals.layer_stats, times, cache.by_rows, cache.slots, totals.tokens[DECODE]),
        **described(cache),
        tokens_decode=totals.tokens[DECODE],
        tokens_prefill=totals.tokens[PREFILL],
        off_policy=totals.off_policy,
        **totals.swaps.rates,
    )
    return report


def borders(
    trace: Trace | TraceStream, shards: int, cold: bool, timed: bool
) -> list[tuple[int, int]]:
    """Return (first visit, visit after the last) of shards of about the same length.

    Raises:
        ValueError: shards that would depend on each other, or more shards than sequences.
    """
    if shards == 1:
        return [(0, len(trace))]
    if not cold:
        raise ValueError(
            f"shards={shards}: this cache stays warm from one sequence to the next, so that no "
            "shard can start without the one before; expected caches that start cold "
            "(workload.cold=true, where the trace does not say otherwise); try shards=1"
        )
    if timed:
        raise ValueError(
            f"shards={shards}: a modelled link goes on from one sequence to the next, so that the "
            "times of shards do not add up; expected counts only; try hardware=auto"
        )
    # A prefetch in flight at a reset is not counted, but at the end of a shard it is.
    starts = np.setdiff1d(trace.sequence_starts(), trace.resets)
    if shards > len(starts) + 1:
        raise ValueError(
            f"shards={shards}: the trace has {len(starts) + 1} sequences to divide; expected at "
            f"most {len(starts) + 1}; try shards={len(starts) + 1}"
        )
    cuts = [0, *_nearest(starts, len(trace), shards), len(trace)]
    return list(pairwise(cuts))


def _nearest(starts: Any, visits: int, shards: int) -> list[int]:
    """Return `shards - 1` rising starts, each as near to an even division as is left."""
    chosen: list[int] = []
    for number in range(1, shards):
        wanted = int(np.searchsorted(starts, visits * number / shards))
        least = int(np.searchsorted(starts, chosen[-1], side="right")) if chosen else 0
        most = len(starts) - (shards - number)
        chosen.append(int(starts[min(max(wanted, least), most)]))
    return chosen
