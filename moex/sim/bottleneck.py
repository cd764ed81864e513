"""Bottleneck analysis: one line that says how much one more unit of each resource would gain.

A live run is analyzed by replaying its own trace (`analyze_live`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from moex.cache.belady import Belady
from moex.cache.memory import parse_bytes
from moex.hardware.profile import COSTS, HardwareProfile
from moex.prefetch.recorded import Recorded
from moex.sim.check import RECORDED
from moex.sim.replay import replay
from moex.sim.scaled import recorded_bytes

if TYPE_CHECKING:
    from moex.decisions.decisions import Decisions
    from moex.runs.report import Report
    from moex.trace.format import Trace
    from moex.trace.stream import TraceStream

LONGEST = 10_000
"""Most visits replayed for the bottleneck line of a live run, or of a stream: a second or two in
all."""


@dataclass(frozen=True)
class Bottleneck:
    """The bottleneck of a run, found by replays with one setting changed.

    Args:
        report: the run itself.
        what_ifs: the run with one more unit of "policy", "capacity", and with a timed profile of
            "bandwidth" and "compute": each the row of a rerun with that one setting changed.
    """

    report: Report
    what_ifs: dict[str, Report]

    @property
    def gains(self) -> dict[str, float]:
        """Speed with one more unit of each, as a share of the run's (0.1: 10 % faster).

        Without a timed profile the share of loads that each saves.
        """
        return {unit: _gain(self.report, other) for unit, other in self.what_ifs.items()}

    @property
    def limit(self) -> str:
        """The unit of largest gain; "nothing" if none gains anything."""
        unit = max(self.gains, key=lambda each: self.gains[each])
        return unit if self.gains[unit] > 0 else "nothing"

    def __str__(self) -> str:
        """Return the bottleneck line."""
        return self.line(self.report.tokens_per_second, self.report.stall_share)

    def line(self, speed: float | None, stall_share: float | None) -> str:
        """Return the bottleneck line with a speed, in tokens/s, and the share of stall in it."""
        report, names = self.report, {"capacity": "+1 slot a layer", "policy": "perfect policy"}
        names |= {"bandwidth": "2x link bandwidth", "compute": "2x computing speed"}
        names |= {"host": "2x host memory", "disk": "2x disk bandwidth"}
        if self.what_ifs["capacity"].off_policy:
            names["capacity"] += " (off-policy)"
        if report.host_computed:
            names["compute"] += " (device and host)"
        ordered = sorted(self.gains.items(), key=lambda pair: -pair[1])
        if speed is None:
            gains = ", ".join(f"{names[unit]} -{gain:.1%} loads" for unit, gain in ordered)
            return f"{self.limit}-limited at hit rate {report.hit_rate or 0:.3f}: {gains}"
        gains = ", ".join(f"{names[unit]} {gain:+.1%}" for unit, gain in ordered)
        return (
            f"{self.limit}-limited at {speed:.3g} tokens/s ({stall_share or 0:.0%} stall): {gains}"
        )


def analyze(
    trace: Trace | TraceStream,
    decisions: Decisions,
    hardware: HardwareProfile | None = None,
    cold: bool = False,
    clock: HardwareProfile | None = None,
) -> Bottleneck:
    """Replay a run as it is and with one more unit of each resource; return its bottleneck.

    The units: Belady with bypass for the policy, one slot more a layer, twice the link's bandwidth,
    twice the speed of computing, on device and host; with a host tier, twice its memory, and twice
    the disk's bandwidth. Each what-if builds its decisions anew for its
    own hardware, as a rerun would. Gains hold one at a time and do not add up. Where what is
    demanded depends on residency, no policy is perfect, and more slots are estimated off-policy.

    Args:
        trace: the recorded routing.
        decisions: the run's.
        hardware: the profile that the run's decisions are made for, with costs of the trace's model
            (`scaled`); None: none.
        cold: whether every sequence starts with an empty cache.
        clock: the profile that times are computed with; default `hardware`. If neither is timed,
            loads are compared instead of times.
    """
    hardware = hardware or HardwareProfile()
    clock = clock or hardware
    report = replay(decisions, trace, hardware, cold, clock=clock)
    most = trace.geometry.experts
    given = decisions.memory.resolve(trace.geometry)
    more: int | list[int]
    if isinstance(given, int):
        more = min(given + 1, most)
    else:
        more = [min(each + 1, most) for each in given]
    changed = {}
    if not decisions.routes_by_residency:  # else no recording is the future
        changed["policy"] = replace(decisions, policy=Belady(bypass=True))
    memory = replace(decisions.memory, slots=more, budget=None)
    changed["capacity"] = replace(decisions, memory=memory)
    if decisions.memory.host is not None:
        twice = 2 * parse_bytes(decisions.memory.host)
        changed["host"] = replace(decisions, memory=replace(decisions.memory, host=twice))
    what_ifs = {
        unit: replay(other, trace, hardware, cold, clock=clock) for unit, other in changed.items()
    }
    units = [
        ("bandwidth", HardwareProfile.with_faster_link),
        ("compute", HardwareProfile.with_faster_computing),
    ]
    if decisions.memory.host is not None:
        units.append(("disk", HardwareProfile.with_faster_disk))
    if clock.timed:
        for unit, faster in units:
            times = faster(clock, 2)
            what_ifs[unit] = replay(decisions, trace, faster(hardware, 2), cold, clock=times)
    return Bottleneck(report, what_ifs)


def _gain(report: Report, other: Report) -> float:
    if report.decode_s is None or other.decode_s is None:
        before, after = (
            (each.demand_misses or 0) + (each.deferred or 0) for each in (report, other)
        )
        return 1 - after / before if before else 0.0
    if not other.decode_s:
        return 0.0
    return report.decode_s / other.decode_s - 1


def analyze_live(
    trace: Trace | TraceStream,
    decisions: Decisions,
    hardware: HardwareProfile | None,
    report: Report,
    cold: bool = False,
) -> Bottleneck:
    """Return the bottleneck of a live run, by replaying its trace on hardware like its own.

    Times are computed with `fitted` costs; decisions are made for the configured profile, as they
    were in the run. A prefetcher that needs what no trace holds is replayed as `recorded`. The
    first `LONGEST` visits stand for a longer trace.

    Args:
        trace: of the run's reported round.
        decisions: the run's.
        hardware: the profile that the run emulated; None or untimed: its link was real.
        report: the run's row.
        cold: whether every sequence started with an empty cache.

    Raises:
        ValueError: the host computed experts, and the profile has no host speed.
    """
    if decisions.prefetcher is not None and decisions.prefetcher.needs - RECORDED:
        decisions = replace(decisions, prefetcher=Recorded())
    part = trace.select(slice(0, LONGEST))
    return analyze(part, decisions, hardware, cold, fitted(report, trace, hardware))


def live_line(bottleneck: Bottleneck, report: Report) -> str:
    """Return the bottleneck line of a live run, with its measured speed and stall."""
    replayed, measured = bottleneck.report.tokens_per_second, report.tokens_per_second
    if replayed is None or measured is None:
        return f"{bottleneck} (simulated)"
    line = bottleneck.line(measured, report.stall_share)
    return f"{line} (gains by replays with the run's costs; as it is, they give {replayed:.3g})"


def fitted(
    report: Report, trace: Trace | TraceStream, hardware: HardwareProfile | None
) -> HardwareProfile:
    """Return a profile of a live run's own costs; an untimed one if its row has no times.

    The cost of its visits without waiting is taken from the run; its link is the emulated
    profile's, or one with the latency-free bandwidth that the run reached; with a host tier, its
    disk likewise.
    """
    machine = hardware or HardwareProfile()
    if not report.decode_s or not report.tokens_decode or report.stall_s is None:
        return replace(machine, link_bytes_per_s=None)
    decoding = sum(int((~chunk.prefill).sum()) for chunk in trace.chunks())
    visit_s = (report.decode_s - report.stall_s) / decoding
    costs = dict.fromkeys(COSTS, 0.0) | {"visit_s": visit_s}
    # If nothing was loaded while decoding, the bandwidth is unknown and has no effect.
    own_link = report.host_copy_bytes_per_s if report.tiers else report.link_bytes_per_s
    link = machine.link_bytes_per_s or own_link or inf
    disk = machine.disk_bytes_per_s or report.disk_bytes_per_s
    disk = disk or (inf if report.tiers else None)
    host_s = machine.host_expert_s and machine.host_seconds(trace.geometry.expert_bytes)
    own = {"expert_bytes": trace.geometry.expert_bytes, **recorded_bytes(trace)}
    rates = {"link_bytes_per_s": link, "disk_bytes_per_s": disk}
    return replace(machine, **rates, host_expert_s=host_s, **costs, **own)  # type: ignore[arg-type]
