"""What no policy and no prefetcher can beat on a trace: counts of loads, and seconds.

All bounds are for whole experts of one size whose misses are fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moex.sim.curves import curves, missed
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.sim.hardware import HardwareProfile
    from moex.trace.format import Trace

WINDOWS = 16


@dataclass(frozen=True)
class Floors:
    """Fewest loads at one capacity while decoding, under demand fetching.

    requests: accesses, i.e. loads without any cache.
    compulsory: first uses, which no capacity avoids.
    capacity: what visits larger than the pool must load again: sum of max(0, |visit| - slots).
    belady: Belady 1966 if every loaded expert enters (forced admission).
    belady_bypass: Belady with bypass, the least that any policy can reach. With prefetching it
        still bounds loads that are used, however far ahead guesses are made: one enters no slot
        before it is demanded and is dropped at the next visit of its layer, so each demanded expert
        that was not resident has cost a load since its layer's visit before.
    static: the best fixed set of experts a layer, chosen by this very trace's counts.

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
    drawn = curves(trace, ("belady", "belady-bypass"), [slots], pool, cold)
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
        requests=drawn["belady"].requests,
        compulsory=int(mine[first].sum()),
        capacity=int(np.maximum(0, counts[counted] - slots * scale).sum()),
        belady=int(drawn["belady"].misses[0]),
        belady_bypass=int(drawn["belady-bypass"].misses[0]),
        static=int(mine.sum() - kept.sum()),
    )


def time_floor(
    trace: Trace,
    slots: int,
    hardware: HardwareProfile,
    pool: str = "layer",
    staging: int | None = None,
    cold: bool = False,
    phase: str | None = DECODE,
) -> float:
    """Return seconds that no policy and no prefetcher of `simulate` can go below.

    The run is cut into windows; their bounds add up, because a window's visits are computed one
    after the other and only within it. A window takes at least its computing, and at least the
    link's time for what must cross it meanwhile: Belady's loads with bypass on the window alone,
    starting empty, less the experts that can be there or on their way when it begins, one a place,
    guesses of any horizon included. What loads cost beside the link is left out. (Belady's
    choices are optimal for every prefix at once, so one replay from a cut gives all windows that
    begin there.) Of all ways to cut at the ends of `WINDOWS` equal parts, the best is taken.

    Args:
        trace: the recorded routing.
        slots: residents per layer.
        hardware: a timed profile.
        pool: "layer" or "global".
        staging: places beside the slots; default `2 * top_k`, as in `ExpertCache`.
        cold: whether every sequence starts with an empty cache.
        phase: seconds of "decode", of "prefill", or None for both.

    Raises:
        ValueError: the profile says no link bandwidth.
    """
    if hardware.link_bytes_per_s is None:
        raise ValueError(
            f"hardware={hardware.name}: says no link bandwidth, so nothing takes time; "
            "expected a named profile, e.g. hardware=rtx3090"
        )
    geometry = trace.geometry
    staging = 2 * geometry.top_k if staging is None else staging
    places = slots * geometry.layers + staging
    computing = _computing(trace, hardware)
    load_s = hardware.link_latency_s + geometry.expert_bytes / hardware.link_bytes_per_s
    total = 0.0
    for begin, end, empty in _segments(trace, cold, phase):
        windows = -(-WINDOWS * (end - begin) // len(trace))
        cuts = np.unique(np.linspace(begin, end, windows + 1).astype(np.int64))
        compute = np.append(0.0, np.cumsum(computing[begin:end]))[cuts - begin]
        best = np.zeros(len(cuts))
        for i, cut in enumerate(cuts[:-1]):
            part = trace.select(slice(int(cut), end))
            loads = np.append(0, np.cumsum(missed(part, slots, pool)))
            there = 0 if empty and i == 0 else places
            link = np.maximum(0, loads[cuts[i + 1 :] - cut] - there) * load_s
            window = np.maximum(compute[i + 1 :] - compute[i], link)
            best[i + 1 :] = np.maximum(best[i + 1 :], best[i] + window)
        total += float(best[-1])
    return total


def _computing(trace: Trace, hardware: HardwareProfile) -> NDArray[np.float64]:
    """Seconds of computing of every visit [visits]."""
    seconds = hardware.visit_s + hardware.expert_s * np.diff(trace.offsets)
    seconds[trace.layer == 0] += hardware.pass_s
    return seconds


def _segments(trace: Trace, cold: bool, phase: str | None) -> list[tuple[int, int, bool]]:
    """Stretches of the run that are counted: (first visit, visit after, does it begin empty)."""
    cut = np.zeros(len(trace), np.bool_)
    cut[:1] = True
    starts_empty = cut.copy()
    if cold:
        starts_empty[1:] = trace.sequence[1:] != trace.sequence[:-1]
    if phase is not None:
        cut[1:] = trace.prefill[1:] != trace.prefill[:-1]
    begins = np.flatnonzero(cut | starts_empty)
    ends = np.append(begins[1:], len(trace))
    wanted = [
        True if phase is None else bool(p) == (phase == PREFILL) for p in trace.prefill[begins]
    ]
    return [
        (int(begin), int(end), bool(starts_empty[begin]))
        for begin, end, use in zip(begins, ends, wanted, strict=True)
        if use
    ]
