"""Miss-ratio curves: every capacity of a policy from one pass over a trace.

Under event-atomic replay with forced admission a pool of C slots holds, after a visit of the set D,
D itself and the C - |D| most valuable of its other residents. If an expert's value does not depend
on C (lru: last use; perfect lfu: count; belady: next use; ties: last use, then index), a cache of
C + 1 slots always holds what one of C slots holds (Mattson et al. 1970), as long as no visit is
larger than C. So one stack a pool gives all capacities from the largest visit up. Belady with
bypass keeps the C best of residents and D, which is inclusive at every capacity.

Where that does not hold, which is checked and not assumed, each capacity is replayed by itself,
just as exactly: fifo (an entry's age depends on C) and capacities smaller than a prompt's union.
`Curve.method` names the method of each point. Tests compare every point with `simulate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moex.sim.curves.compiled import BELADY, BYPASS, FIFO, LFU, LRU, replay, stack
from moex.trace.trace import following
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moex.trace.format import Trace

KINDS = {"lru": LRU, "lfu": LFU, "fifo": FIFO, "belady": BELADY, "belady-bypass": BYPASS}
"""Policies that have curves, as configured by default; lfu counts survive eviction."""


@dataclass(frozen=True)
class Curve:
    """Hits of one policy at every capacity, in one phase.

    `slots`, `hits`, `all_hits` (visits that need no load) and `method` ("stack" or "replay") have
    one entry a capacity; `requests` and `visits` are the same for all.
    """

    policy: str
    slots: NDArray[np.int64]
    hits: NDArray[np.int64]
    all_hits: NDArray[np.int64]
    method: tuple[str, ...]
    requests: int
    visits: int

    @property
    def misses(self) -> NDArray[np.int64]:
        """Loads at every capacity."""
        return self.requests - self.hits

    @property
    def hit_rate(self) -> NDArray[np.float64]:
        """Share of accesses that need no load, at every capacity."""
        return self.hits / max(1, self.requests)


class Visits(NamedTuple):
    """A trace as the compiled loops read it; an expert is numbered `layer * experts + index`."""

    pool: NDArray[np.int64]
    offsets: NDArray[np.int64]
    experts: NDArray[np.int64]
    following: NDArray[np.int64]
    fresh: NDArray[np.bool_]
    phase: NDArray[np.int64]


def curves(
    trace: Trace,
    policies: Sequence[str] = ("lru", "lfu", "belady"),
    slots: Sequence[int] | None = None,
    pool: str = "layer",
    cold: bool = False,
    phase: str = DECODE,
) -> dict[str, Curve]:
    """Return a curve for each policy.

    Args:
        trace: the recorded routing.
        policies: of `KINDS`.
        slots: residents per layer; default from top-k up to all experts.
        pool: "layer" or "global" (`slots * layers` shared).
        cold: whether every sequence starts with an empty cache, zero counts included.
        phase: which accesses are counted, "decode" or "prefill"; all are replayed.

    Raises:
        ValueError: an unknown policy, pool or phase.
    """
    unknown = [name for name in policies if name not in KINDS]
    if unknown or pool not in ("layer", "global") or phase not in (DECODE, PREFILL):
        raise ValueError(
            f"curves: policies {', '.join(policies)}, pool {pool}, phase {phase}: expected of "
            f"{', '.join(KINDS)}, layer or global, decode or prefill"
        )
    geometry, visits = trace.geometry, visits_of(trace, pool, cold)
    sizes = np.arange(geometry.top_k, geometry.experts + 1) if slots is None else np.asarray(slots)
    row = int(phase == PREFILL)
    counted = visits.phase == row
    requests = int(np.diff(trace.offsets)[counted].sum())
    found = {}
    for name in policies:
        hits, all_hits, method = _curve(trace, visits, KINDS[name], sizes, pool, row)
        found[name] = Curve(name, sizes, hits, all_hits, method, requests, int(counted.sum()))
    return found


def visits_of(trace: Trace, pool: str, cold: bool) -> Visits:
    """Return a trace as the compiled loops read it."""
    experts = trace.names()
    clocks = np.repeat(np.arange(len(trace)), np.diff(trace.offsets))
    never = np.iinfo(np.int64).max
    fresh = np.zeros(len(trace), np.bool_)
    if cold:
        fresh[1:] = trace.sequence[1:] != trace.sequence[:-1]
    fresh[list(trace.resets)] = True
    return Visits(
        pool=(trace.layer if pool == "layer" else np.zeros(len(trace))).astype(np.int64),
        offsets=np.ascontiguousarray(trace.offsets, np.int64),
        experts=experts,
        following=np.append(clocks, never)[following(experts)],
        fresh=fresh,
        phase=trace.prefill.astype(np.int64),
    )


def _curve(
    trace: Trace,
    visits: Visits,
    kind: int,
    sizes: NDArray[np.int64],
    pool: str,
    row: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    geometry, counted = trace.geometry, visits.phase == row
    scale, pools = (1, geometry.layers) if pool == "layer" else (geometry.layers, 1)
    hits, all_hits = np.zeros((2, len(sizes)), np.int64)
    largest = int(np.diff(visits.offsets).max(initial=0))
    stacked = (sizes * scale >= largest) | (kind == BYPASS)
    if kind == FIFO:
        stacked[:] = False
    if stacked.any():
        width = geometry.experts * scale
        depths, deepest = stack(visits, pools, width, kind)
        hits[stacked] = np.cumsum(depths[row])[sizes[stacked] * scale - 1]
        all_hits[stacked] = np.cumsum(deepest[row])[sizes[stacked] * scale - 1]
    for point in np.flatnonzero(~stacked):
        loads = replayed_loads(trace, visits, kind, int(sizes[point]), pool)[counted]
        hits[point] = np.diff(visits.offsets)[counted].sum() - loads.sum()
        all_hits[point] = (loads == 0).sum()
    return hits, all_hits, tuple(np.where(stacked, "stack", "replay").tolist())


def replayed_loads(
    trace: Trace, visits: Visits, kind: int, slots: int, pool: str
) -> NDArray[np.int64]:
    """Return the loads of every visit at one capacity [visits]."""
    layers, experts = trace.geometry.layers, trace.geometry.experts
    pools, capacity = (layers, slots) if pool == "layer" else (1, slots * layers)
    width = layers * experts // pools
    loads: NDArray[np.int64] = replay(visits, pools, width, capacity, kind)
    return loads
