"""A lower bound on decoding time, for every eviction policy and prefetcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moex.hardware.forecast import transfer_s

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.hardware.profile import HardwareProfile
    from moex.trace.format import Trace

WINDOWS = 64
"""Windows of a trace: more make the bound tighter, until one is no larger than the cache."""

ROUNDING = 1e-9
"""Share subtracted: the simulator sums the same seconds in another order."""


def decode_lower_bound(
    trace: Trace,
    hardware: HardwareProfile,
    slots: int,
    pool: str = "layer",
    staging: int | None = None,
    cold: bool = False,
) -> float:
    """Return seconds below which `simulate` cannot decode the trace, however well it chooses.

    It holds for whole experts of one size whose misses are all fetched, for every eviction policy,
    every prefetcher of any depth, and every precision of its predictions.

    Decoding is cut into windows. Their bounds add up, because the visits of a window are computed
    one after the other and only within it. A window takes at least as long as its computing, and at
    least as long as the link needs for its loads. These are at least the loads of Belady with
    bypass in it, less one for every slot (resident or staging) that may hold another expert, or be
    filled by a transfer under way, when the window begins. (Belady with bypass loads least up to
    every visit; a run that follows it up to the window and another policy from there on would load
    less otherwise.) Of all ways to join neighbouring windows the best is taken.

    Args:
        trace: the recorded routing.
        hardware: a timed profile, with costs of the trace's model (`scaled`).
        slots: residents per layer.
        pool: "layer" or "global".
        staging: slots shared by all layers, beside the residents'; default `2 * top_k`.
        cold: whether every sequence starts with an empty cache.

    Raises:
        ValueError: the profile gives no link bandwidth.
    """
    if not hardware.timed:
        raise ValueError(
            f"hardware={hardware.name}: has no link bandwidth, so no transfer takes time; "
            "expected a timed profile; try hardware=rtx3090"
        )
    geometry = trace.geometry
    held = slots * geometry.layers + (2 * geometry.top_k if staging is None else staging)
    moved_s = transfer_s(geometry, hardware)
    loading_s = hardware.handover_s + hardware.load_s  # of the device's compute, for every load
    computing = np.append(0.0, np.cumsum(_computing(trace, hardware)))
    loads = np.append(0, np.cumsum(belady_loads(trace, slots, pool, cold)))
    total = 0.0
    for begin, end, empty in _decoding(trace, cold):
        windows = -(-WINDOWS * (end - begin) // len(trace))
        cuts = np.unique(np.linspace(begin, end, windows + 1).astype(np.int64))
        best = np.zeros(len(cuts))
        for i, cut in enumerate(cuts[:-1]):
            later = cuts[i + 1 :]
            resident = 0 if empty and i == 0 else held
            least = np.maximum(0, loads[later] - loads[cut] - resident)
            computed = computing[later] - computing[cut] + least * loading_s
            window = best[i] + np.maximum(computed, least * moved_s)
            best[i + 1 :] = np.maximum(best[i + 1 :], window)
        total += float(best[-1])
    return total * (1 - ROUNDING)


def belady_loads(
    trace: Trace, slots: int, pool: str = "layer", cold: bool = False
) -> NDArray[np.int64]:
    """Return how many experts every visit loads under Belady with bypass [visits].

    After a visit the pool keeps those of its residents and of the visit's experts that are demanded
    again soonest; one that never is, is not kept at all.
    """
    from moex.sim.curves.compiled import BYPASS  # loads numba
    from moex.sim.curves.stack import replayed_loads, visits_of

    visits = visits_of(trace, pool, cold)._replace(fresh=_begins(trace, cold))
    return replayed_loads(trace, visits, BYPASS, slots, pool)


def _begins(trace: Trace, cold: bool) -> NDArray[np.bool_]:
    """Whether a cold sequence begins at each visit [visits]."""
    begins = np.zeros(len(trace), np.bool_)
    if cold:
        begins[1:] = trace.sequence[1:] != trace.sequence[:-1]
    return begins


def _computing(trace: Trace, hardware: HardwareProfile) -> NDArray[np.float64]:
    """Seconds of computing of every visit [visits]."""
    seconds = np.full(len(trace), hardware.visit_s, np.float64)
    seconds += hardware.expert_s * np.diff(trace.offsets)
    seconds[trace.layer == 0] += hardware.pass_s
    return seconds


def _decoding(trace: Trace, cold: bool) -> list[tuple[int, int, bool]]:
    """Stretches of decoding: (first visit, visit after, whether the cache is empty before)."""
    begins, empty = np.zeros((2, len(trace)), np.bool_)
    empty[:1] = True
    if cold:
        empty[1:] = trace.sequence[1:] != trace.sequence[:-1]
    begins[1:] = trace.prefill[1:] != trace.prefill[:-1]
    starts = np.flatnonzero(begins | empty)
    ends = np.append(starts, len(trace))[1:]
    return [
        (int(start), int(end), bool(empty[start]))
        for start, end in zip(starts, ends, strict=True)
        if not trace.prefill[start]
    ]
