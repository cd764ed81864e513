"""Calibrates `miss.worth_s` of hybrid miss handling (the value of a fetched expert) by replay."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from moex.sim.simulator import simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.cache.core import ExpertCache
    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.trace.format import Trace

SHARES = (-inf, 0.0, 0.125, 0.25, 0.5, 1.0, 2.0, inf)
"""Candidates, as shares of one load's seconds. The ends: only the host, only fetching."""


def calibrate_worth(
    trace: Trace,
    cache: Callable[[float], ExpertCache],
    hardware: HardwareProfile,
    prefetcher: Prefetcher | None = None,
) -> dict[float, float]:
    """Replay a trace with every candidate: return seconds/token by `worth_s`, fastest first.

    Only the host and only fetching are among the candidates, so on the calibration trace the best
    is at least as fast as both; on other traces it need not be.

    Args:
        trace: of the kind of text that will be run.
        cache: makes a cache whose misses are split with the given `worth_s`.
        hardware: a timed profile with the host's compute speed.
        prefetcher: the run's; default none.
    """
    assert hardware.link_bytes_per_s is not None
    load_s = hardware.link_latency_s + trace.geometry.expert_bytes / hardware.link_bytes_per_s
    took = {}
    for share in SHARES:
        report = simulate(trace, cache(share * load_s), prefetcher, hardware)
        assert report.tpot_s is not None
        took[share * load_s] = report.tpot_s
    return dict(sorted(took.items(), key=lambda item: item[1]))
