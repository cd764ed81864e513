"""Lower bounds on the loads of any policy and prefetcher on a trace (seconds: `time_bound`).

All bounds are for whole experts whose misses are fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moex.sim.curves.stack import curves

if TYPE_CHECKING:
    from moex.trace.format import Trace


@dataclass(frozen=True)
class Floors:
    """Fewest loads at one capacity while decoding, under demand fetching.

    requests: accesses, i.e. loads without any cache.
    compulsory: first uses, which no capacity avoids.
    capacity: what visits larger than the pool must load again: sum of max(0, |visit| - slots).
    belady: Belady 1966 if every loaded expert enters (forced admission).
    belady_bypass: Belady with bypass, the fewest loads of any policy. With prefetching it still
        bounds the loads that are used, however far ahead they are predicted: a prefetched expert is
        not resident before it is demanded and is dropped at the next visit of its layer, so each
        demanded expert that was not resident cost a load since its layer's previous visit.
    static: the best fixed set of experts a layer, chosen by the counts of the trace itself.

    The Belady loads are those of the whole run's optimum that fall into decoding: in a trace with
    prompts another policy may load less there, at the cost of more in prefill.
    """

    slots: int
    requests: int
    compulsory: int
    capacity: int
    belady: int
    belady_bypass: int
    static: int


def floors(trace: Trace, slots: int, pool: str = "layer", cold: bool = False) -> Floors:
    """Return all lower bounds on loads with `slots` residents a layer.

    `pool` is "layer" or "global"; with `cold` every sequence starts with an empty cache. The static
    set is resident from the start, and its own loads are not counted.
    """
    optimal = curves(trace, ("belady", "belady-bypass"), [slots], pool, cold)
    counted = ~trace.prefill
    counts = np.diff(trace.offsets)
    geometry = trace.geometry
    scale, pools = (1, geometry.layers) if pool == "layer" else (geometry.layers, 1)
    names = trace.names()
    mine = np.repeat(counted, counts)
    # A use is a first one if the expert was not used before in the run, or in its sequence.
    keys = names if not cold else names + np.repeat(trace.sequence, counts) * (names.max() + 1)
    first = np.unique(keys, return_index=True)[1]
    uses = np.bincount(names[mine], minlength=geometry.layers * geometry.experts)
    kept = -np.sort(-uses.reshape(pools, -1), axis=1)[:, : slots * scale]
    return Floors(
        slots=slots,
        requests=optimal["belady"].requests,
        compulsory=int(mine[first].sum()),
        capacity=int(np.maximum(0, counts[counted] - slots * scale).sum()),
        belady=int(optimal["belady"].misses[0]),
        belady_bypass=int(optimal["belady-bypass"].misses[0]),
        static=int(mine.sum() - kept.sum()),
    )
