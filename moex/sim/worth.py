"""What a fetched expert is worth: calibrates `miss.worth_s` of hybrid miss handling by replay."""

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
"""Of the seconds of one load. The ends are the host alone and fetching alone."""


def calibrate_worth(
    trace: Trace,
    cache: Callable[[float], ExpertCache],
    hardware: HardwareProfile,
    prefetcher: Prefetcher | None = None,
) -> dict[float, float]:
    """Replay a trace with every candidate: seconds a token by `worth_s`, fastest first.

    The host alone and fetching alone are among the candidates, so on the trace that it is
    calibrated with, the best is at least as fast as the better of both; on others it need not be.

    Args:
        trace: of the kind of text that will be run.
        cache: makes a cache whose misses are shared out with the given `worth_s`.
        hardware: a timed profile that says how fast its host computes.
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
