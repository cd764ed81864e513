"""Upper bound on the speed of offloaded decoding: bytes divided by bandwidths."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from moex.hardware.profile import HardwareProfile
    from moex.types import Geometry

READ_SHARE = 0.85
"""Share of the vendor's memory bandwidth that good kernels reach when reading weights."""


class Roof(NamedTuple):
    """Tokens/s at a hit rate: with loads overlapping computing, and with no overlap."""

    hit_rate: float
    overlapped: float
    serial: float


def roofline(
    geometry: Geometry, skeleton_bytes: int, hardware: HardwareProfile, hit_rate: float
) -> Roof:
    """Return the upper bound on tokens/s of one sequence.

    Computing reads the skeleton and the demanded experts once from the device's memory, at 85 % of
    its speed (0 s if the profile has none); a miss crosses the link once.

    Args:
        geometry: of the model; `expert_bytes` cross the link on a miss.
        skeleton_bytes: bytes of all other weights.
        hardware: a timed profile.
        hit_rate: share of demanded experts that need no load.
    """
    assert hardware.link_bytes_per_s is not None
    visits = geometry.layers * geometry.top_k
    missed = (1 - hit_rate) * visits
    link_s = missed * geometry.expert_bytes / hardware.link_bytes_per_s
    compute_s = 0.0
    if hardware.memory_bytes_per_s is not None:
        read = skeleton_bytes + geometry.token_bytes
        compute_s = read / (READ_SHARE * hardware.memory_bytes_per_s)
    serial_s = compute_s + link_s + missed * hardware.link_latency_s
    return Roof(hit_rate, _per_second(max(compute_s, link_s)), _per_second(serial_s))


def _per_second(seconds: float) -> float:
    return 1 / seconds if seconds else float("inf")
