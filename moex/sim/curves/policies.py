"""Miss-ratio curves of any policy: one pass where it is a stack algorithm, else a replay each."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.stats import CacheStats
from moex.decisions.governor import Governor
from moex.prefetch.none import NoPrefetch
from moex.sim.curves.stack import Curve, curves
from moex.sim.replay import RecordedFuture
from moex.sim.simulator import replayed
from moex.types import DECODE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.cache.base import CachePolicy
    from moex.trace.format import Trace

STACKS: tuple[tuple[str, CachePolicy], ...] = (
    ("lru", LRU()),
    ("lfu", LFU()),
    ("belady", Belady()),
    ("belady-bypass", Belady(bypass=True)),
)
"""Policies of which `curves` draws all capacities in one pass."""


class Point(NamedTuple):
    """One replay: hits, visits without a load, accesses, visits, and how it was made."""

    hits: int
    all_hits: int
    requests: int
    visits: int
    method: str


def policy_curve(
    trace: Trace,
    policy: CachePolicy,
    slots: Sequence[int] | None = None,
    pool: str = "layer",
    cold: bool = False,
    phase: str = DECODE,
    seed: int = 0,
) -> Curve:
    """Return the curve of a policy.

    Replays of different capacities run side by side on all cores where they are compiled. `method`
    says how each point was made: "stack", "replay", "compiled" or "interpreted".

    Args:
        trace: the recorded routing.
        policy: any.
        slots: residents per layer; default from top-k up to all experts.
        pool: "layer" or "global" (`slots * layers` shared).
        cold: whether every sequence starts with an empty cache.
        phase: which accesses are counted, "decode" or "prefill"; all are replayed.
        seed: for policies that use random numbers.
    """
    for name, known in STACKS:
        if type(policy) is type(known) and policy == known:
            return curves(trace, (name,), slots, pool, cold, phase)[name]
    geometry = trace.geometry
    sizes = range(geometry.top_k, geometry.experts + 1) if slots is None else slots

    def point(size: int) -> Point:
        future = RecordedFuture(trace) if "future" in policy.needs else None
        cache = ExpertCache(policy, geometry, size, pool, None, seed, future)
        totals, _, why = replayed(trace, cache, NoPrefetch(), None, cold, None, Governor())
        counts = CacheStats.total(totals.layer_stats).phases[phase]
        hits, loaded = counts.resident_hits, counts.waited_visits
        method = "interpreted" if why else "compiled"
        return Point(hits, counts.visits - loaded, counts.requests, counts.visits, method)

    points = [point(sizes[0])]  # which compiles, once
    compiled = points[0].method == "compiled"
    with ThreadPoolExecutor((os.cpu_count() or 1) if compiled else 1) as workers:
        points += workers.map(point, sizes[1:])
    return Curve(
        policy=type(policy).__name__,
        slots=np.asarray(sizes, np.int64),
        hits=np.array([each.hits for each in points]),
        all_hits=np.array([each.all_hits for each in points]),
        method=tuple(each.method for each in points),
        requests=points[0].requests,
        visits=points[0].visits,
    )
