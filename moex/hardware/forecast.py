"""Expected speed of offloaded decoding at a hit rate, from the costs that the simulator charges."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from moex.hardware.profile import HardwareProfile
    from moex.types import Geometry


GATE_UP = 2 / 3
"""Share of an expert that are its gate and up projections."""


class Forecast(NamedTuple):
    """Tokens/s of one sequence at a hit rate: no load hidden by prefetching, and all of them.

    With all hidden, nothing waits, but the link still has to move every missing expert.
    """

    hit_rate: float
    plain: float
    hidden: float


def forecast(geometry: Geometry, hardware: HardwareProfile, hit_rate: float) -> Forecast:
    """Return the expected tokens/s of decoding one sequence.

    An expert is a hit or not independently of the others of its visit, so the number of misses of a
    visit is binomial.

    Args:
        geometry: of the model.
        hardware: a timed profile, scaled to the model (`HardwareProfile.on`).
        hit_rate: share of demanded experts that need no load.
    """
    layers, top_k = geometry.layers, geometry.top_k
    moved_s, sooner_s = transfer_s(geometry, hardware), early_s(geometry, hardware)
    chances = [
        comb(top_k, misses) * (1 - hit_rate) ** misses * hit_rate ** (top_k - misses)
        for misses in range(top_k + 1)
    ]
    plain, computing = (
        hardware.pass_s
        + layers
        * sum(p * _visit_s(top_k, m, hardware, wait, sooner_s) for m, p in enumerate(chances))
        for wait in (moved_s, 0.0)
    )
    link_s = layers * top_k * (1 - hit_rate) * moved_s
    return Forecast(hit_rate, _per_second(plain), _per_second(max(computing, link_s)))


def transfer_s(geometry: Geometry, hardware: HardwareProfile) -> float:
    """Return the seconds of moving one expert across the link of a timed profile."""
    assert hardware.link_bytes_per_s is not None
    return hardware.link_latency_s + geometry.expert_bytes / hardware.link_bytes_per_s


def early_s(geometry: Geometry, hardware: HardwareProfile) -> float:
    """Return how long before an expert has arrived computing with it may begin.

    Where a link streams, gate and up are computed once two thirds of a large expert are there.
    """
    if not hardware.streams or geometry.expert_bytes <= hardware.chunk_bytes:
        return 0.0
    assert hardware.link_bytes_per_s is not None
    last_s = (1 - GATE_UP) * geometry.expert_bytes / hardware.link_bytes_per_s
    return min(GATE_UP * hardware.expert_s, last_s)


def _visit_s(
    top_k: int, misses: int, hardware: HardwareProfile, moved_s: float, sooner_s: float
) -> float:
    """Seconds of a visit, as `moex.sim.clock` adds them up: loads begin, hits, then arrivals."""
    now = bool(misses) * hardware.submit_s + misses * hardware.handover_s
    now += (top_k - misses) * hardware.expert_s
    for arrival in range(1, misses + 1):
        now = max(now, arrival * moved_s - sooner_s) + hardware.expert_s + hardware.load_s
    return hardware.visit_s + now


def _per_second(seconds: float) -> float:
    return 1 / seconds if seconds else float("inf")
