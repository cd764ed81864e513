"""What limits a run: one line that says what one more unit of everything would buy.

A live run is judged by replaying its own trace (`judge_live`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.prefetch.recorded import Recorded
from moex.sim.check import RECORDED
from moex.sim.hardware import HardwareProfile
from moex.sim.simulator import simulate

if TYPE_CHECKING:
    from moex.cache.base import CachePolicy
    from moex.cache.rows import RowCache
    from moex.prefetch.base import Prefetcher
    from moex.report import Report
    from moex.trace.format import Trace

COSTS = (
    "visit_s",
    "expert_s",
    "pass_s",
    "submit_s",
    "handover_s",
    "load_s",
    "predict_s",
    "select_s",
)
"""Of a profile: all that computing takes."""

LONGEST = 10_000
"""Visits that are replayed at most for a live run's verdict: a second or two in all."""


@dataclass(frozen=True)
class Verdict:
    """What limits a run.

    limit: "policy", "capacity", "bandwidth" or "compute": the unit that buys most; "nothing" if
        none buys anything.
    gains: speed with one more unit of each, as a share of today's (0.1: 10 % faster). Without a
        timed profile there are only policy and capacity, as the share of loads that they save.
    report: the run itself.
    """

    limit: str
    gains: dict[str, float]
    report: Report

    def __str__(self) -> str:
        """The verdict in one line."""
        report, names = self.report, {"capacity": "+1 slot a layer", "policy": "perfect policy"}
        names |= {"bandwidth": "2x link bandwidth", "compute": "2x computing speed"}
        ordered = sorted(self.gains.items(), key=lambda pair: -pair[1])
        if report.tokens_per_second is None:
            bought = ", ".join(f"{names[unit]} -{gain:.1%} loads" for unit, gain in ordered)
            return f"{self.limit}-limited at hit rate {report.hit_rate or 0:.3f}: {bought}"
        bought = ", ".join(f"{names[unit]} {gain:+.1%}" for unit, gain in ordered)
        return (
            f"{self.limit}-limited at {report.tokens_per_second:.3g} tokens/s "
            f"({report.stall_share or 0:.0%} stall): {bought}"
        )


def judge(
    trace: Trace,
    cache: ExpertCache,
    prefetcher: Prefetcher | None = None,
    hardware: HardwareProfile | None = None,
    cold: bool = False,
    neurons: RowCache | None = None,
) -> Verdict:
    """Replay a run as it is and with one more unit of everything; name what limits it.

    The units: Belady with bypass for the policy, one slot more a layer, twice the link's bandwidth,
    twice the speed of computing. Gains hold one at a time and do not add up.

    Args:
        trace: the recorded routing.
        cache: the run's cache.
        prefetcher: the run's prefetcher; default none.
        hardware: a timed profile, or None to judge by loads.
        cold: whether every sequence starts with an empty cache.
        neurons: the run's books of rows; default whole experts.
    """
    future = trace.future()

    def run(policy: CachePolicy, slots: int, profile: HardwareProfile | None = hardware) -> Report:
        other = ExpertCache(
            policy,
            trace.geometry,
            slots,
            cache.pool,
            cache.staging,
            cache.seed,
            future,
            cache.split,
        )
        rows = neurons.over(other) if neurons else None
        return simulate(trace, other, prefetcher, profile, cold, neurons=rows)

    own = cache.prototype
    more = min(cache.slots + 1, trace.geometry.experts)
    report = run(own, cache.slots)
    others = {"policy": run(Belady(bypass=True), cache.slots), "capacity": run(own, more)}
    if hardware is not None and hardware.link_bytes_per_s is not None:
        twice = replace(hardware, link_bytes_per_s=2 * hardware.link_bytes_per_s)
        faster = replace(hardware, **{name: getattr(hardware, name) / 2 for name in COSTS})
        others["bandwidth"] = run(own, cache.slots, twice)
        others["compute"] = run(own, cache.slots, faster)
    gains = {unit: _gain(report, other) for unit, other in others.items()}
    limit = max(gains, key=lambda unit: gains[unit])
    return Verdict(limit if gains[limit] > 0 else "nothing", gains, report)


def _gain(report: Report, other: Report) -> float:
    if report.decode_s is None or other.decode_s is None:
        before, after = report.demand_misses or 0, other.demand_misses or 0
        return 1 - after / before if before else 0.0
    if not other.decode_s:
        return 0.0
    return report.decode_s / other.decode_s - 1


def judge_live(
    trace: Trace,
    cache: ExpertCache,
    prefetcher: Prefetcher,
    hardware: HardwareProfile | None,
    report: Report,
    cold: bool = False,
    neurons: RowCache | None = None,
) -> str:
    """Return the one-line verdict of a live run, by replaying its trace on hardware like its own.

    What its visits cost beside waiting is taken from the run; its link is the emulated profile's,
    or one with the latency-free bandwidth that the run reached. A prefetcher that needs what no
    trace holds is replayed as `recorded`. The first `LONGEST` visits speak for a longer trace.

    Args:
        trace: of the run's reported round.
        cache: the run's cache.
        prefetcher: the run's prefetcher.
        hardware: the profile that the run emulated; None or untimed: its link was real.
        report: the run's row.
        cold: whether every sequence started with an empty cache.
        neurons: the run's books of rows; default whole experts.

    Raises:
        ValueError: the host computed experts, and nobody says how fast.
    """
    profile = _like(report, trace, hardware)
    if prefetcher.needs - RECORDED:
        prefetcher = Recorded()
    part = trace.select(slice(0, LONGEST))
    judged = judge(part, cache, prefetcher, profile, cold, neurons)
    replayed, measured = judged.report.tokens_per_second, report.tokens_per_second
    if replayed is None or measured is None:
        return f"{judged} (simulated)"
    return f"{judged} (simulated with the run's costs; measured: {measured:.3g} tokens/s)"


def _like(report: Report, trace: Trace, hardware: HardwareProfile | None) -> HardwareProfile | None:
    """A profile fitted to a live run's row; None if it tells no times."""
    if not report.decode_s or not report.tokens_decode or report.stall_s is None:
        return None
    visit_s = (report.decode_s - report.stall_s) / int((~trace.prefill).sum())
    costs = dict.fromkeys(COSTS, 0.0) | {"visit_s": visit_s}
    machine = replace(hardware or HardwareProfile(), **costs)  # type: ignore[arg-type]
    # Where nothing crossed while decoding, no link can be told from another.
    link = machine.link_bytes_per_s or report.link_bytes_per_s or inf
    return replace(machine, link_bytes_per_s=link)
