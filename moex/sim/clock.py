"""The virtual clock of a replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.hardware.link_model import LinkTimeline
from moex.runs.report import Clocked
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from moex.hardware.link_model import Transfer
    from moex.hardware.profile import HardwareProfile
    from moex.types import Geometry, Plan


class Clock:
    """A virtual machine: the device's compute engine, the host's compute engine, and one link.

    `share` of an expert's rows is computed at once. Times are seconds.
    """

    def __init__(self, profile: HardwareProfile, geometry: Geometry, share: float) -> None:
        assert profile.link_bytes_per_s is not None
        self.profile, self.size = profile, geometry.size
        self.expert_s = profile.expert_s * share
        self.link = LinkTimeline(
            profile.link_bytes_per_s, profile.link_latency_s, profile.chunk_bytes
        )
        self.now, self.host_free_at = 0.0, 0.0
        self.host_s = profile.host_seconds(geometry.expert_bytes)
        self.waiting: dict[int, list[Transfer]] = {}
        self.phases = {PREFILL: Clocked(), DECODE: Clocked()}
        self._mark = (0.0, 0.0, 0)

    def submit(self, plan: Plan) -> None:
        """Cancel the plan's dropped prefetches and submit its loads, as a live link does."""
        for slot in [gone.slot for gone in plan.dropped] + [load.slot for load in plan.loads]:
            for transfer in self.waiting.pop(slot, ()):
                self.link.cancel(self.now, transfer)
        for load in plan.transfers:
            transfer = self.link.submit(self.now, self.size(load.rows), load.speculative)
            self.waiting.setdefault(load.slot, []).append(transfer)
        if plan.transfers:  # the transfers begin while the device is still busy handing them over
            self.now += self.profile.submit_s + len(plan.transfers) * self.profile.handover_s

    def forget(self) -> None:
        """Cancel all transfers that have not begun, and wait for none."""
        for transfer in [each for waiting in self.waiting.values() for each in waiting]:
            self.link.cancel(self.now, transfer)
        self.waiting.clear()

    def wait(self, slot: int) -> float:
        """Let the device wait for the loads of a slot; return the seconds it waited."""
        stall = 0.0
        for transfer in self.waiting.pop(slot, ()):
            stall = max(stall, self.link.arrival(self.now, transfer) - self.now)
        self.now += stall
        return stall

    def begin_host(self, experts: int) -> None:
        """Let the host compute `experts` experts, one after the other."""
        if self.host_s is None:
            raise ValueError(
                f"hardware={self.profile.name}: does not say how fast its host computes an expert, "
                "which this miss handler needs; try ++hardware.host_expert_s=0.002"
            )
        self.host_free_at = max(self.now, self.host_free_at) + experts * self.host_s

    def wait_host(self) -> float:
        """Let the device wait for the host; return the seconds it waited."""
        stall = max(0.0, self.host_free_at - self.now)
        self.now += stall
        return stall

    def end_visit(self, phase: str, stall: float) -> None:
        """Count the time and the link's work since the last visit ended."""
        clocked = self.phases[phase]
        self.link.advance(self.now)
        now, busy, moved = self._mark
        clocked.seconds += self.now - now
        clocked.stall_s += stall
        clocked.link_busy_s += self.link.busy_s - busy
        clocked.bytes_moved += self.link.bytes_moved - moved
        self._mark = (self.now, self.link.busy_s, self.link.bytes_moved)
