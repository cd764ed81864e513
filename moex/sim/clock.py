"""The virtual clock of a replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.cache.variants.tiers import TieredCache
from moex.hardware.forecast import early_s
from moex.hardware.tiered_link import submit, timeline
from moex.runs.measured import Clocked
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from moex.cache.core import ExpertCache
    from moex.hardware.link_model import Transfer
    from moex.hardware.profile import HardwareProfile
    from moex.types import Access, Geometry, Plan


class Clock:
    """A virtual machine: the device's compute engine, the host's compute engine, and one link.

    The share of an expert that the cache's slots hold is computed at once. Times are seconds.
    """

    def __init__(self, profile: HardwareProfile, geometry: Geometry, cache: ExpertCache) -> None:
        self.profile, self.size = profile, geometry.size
        self.expert_s = profile.expert_s * cache.slot_share
        self.select_s = profile.select_s if cache.selects else 0.0
        tiered = isinstance(cache, TieredCache)
        in_pieces = cache.selects or tiered or cache.low_slots
        self.early_s = 0.0 if in_pieces else early_s(geometry, profile)
        self.link = timeline(profile, tiered)
        self.now, self.host_free_at = 0.0, 0.0
        self.host_s = profile.host_seconds(geometry.expert_bytes)
        self.waiting: dict[int, list[Transfer]] = {}
        self.phases = {PREFILL: Clocked(), DECODE: Clocked()}
        self.stall_s = 0.0
        """Seconds that the device has waited in the running visit."""
        self._mark = (0.0, 0.0, 0)

    def begin_visit(self, access: Access, tokens: int) -> None:
        """Compute what precedes a visit's experts, and the first visit of a pass of `tokens`."""
        self.clocked, self.stall_s = self.phases[access.phase], 0.0
        self.now += self.profile.visit_s
        self.now += self.select_s
        if access.layer == 0:
            self.now += self.profile.pass_s
            self.clocked.passes += 1
            self.clocked.tokens += tokens

    def submit(self, plan: Plan) -> None:
        """Cancel stale loads that have not begun, and submit the plan's, as a live link does."""
        for slot in plan.stale:
            for transfer in self.waiting.pop(slot, ()):
                self.link.cancel(self.now, transfer)
        if plan.sources or plan.demoted:
            sent = submit(self.link, self.now, self.size(), plan)
            for load, transfer in zip(plan.loads, sent, strict=True):
                self.waiting.setdefault(load.slot, []).append(transfer)
        else:
            for load in plan.transfers:
                size = self.size(load.rows, load.span)
                transfer = self.link.submit(self.now, size, load.speculative)
                self.waiting.setdefault(load.slot, []).append(transfer)
        if plan.transfers:  # the transfers begin while the device is still busy handing them over
            self.now += self.profile.submit_s + len(plan.transfers) * self.profile.handover_s

    def forget(self) -> None:
        """Cancel all transfers that have not begun, and wait for none."""
        for transfer in [each for waiting in self.waiting.values() for each in waiting]:
            self.link.cancel(self.now, transfer)
        self.waiting.clear()

    def wait(self, slot: int) -> bool:
        """Let the device wait for the loads of a slot; return whether they were late.

        Its computing with the expert, which follows, may begin before the whole of it is there.
        """
        loads = self.waiting.pop(slot, None)
        if loads is None:
            return False
        arrived = max(self.link.arrival(self.now, each) for each in loads)
        return self._stall_until(arrived - self.early_s)

    def _stall_until(self, when: float) -> bool:
        stall = max(0.0, when - self.now)
        self.now += stall
        self.stall_s += stall
        return stall > 0

    def begin_host(self, experts: int) -> None:
        """Let the host compute `experts` experts, one after the other."""
        if self.host_s is None:
            raise ValueError(
                f"hardware={self.profile.name}: does not say how fast its host computes an expert, "
                "which this miss handler needs; try ++hardware.host_expert_s=0.002"
            )
        self.host_free_at = max(self.now, self.host_free_at) + experts * self.host_s

    def wait_host(self) -> bool:
        """Let the device wait for the host; return whether it was late."""
        return self._stall_until(self.host_free_at)

    def end_visit(self) -> bool:
        """Count the time and the link's work since the last visit; whether it had to wait."""
        clocked = self.clocked
        self.link.advance(self.now)
        now, busy, moved = self._mark
        clocked.seconds += self.now - now
        clocked.stall_s += self.stall_s
        clocked.link_busy_s += self.link.busy_s - busy
        clocked.bytes_moved += self.link.bytes_moved - moved
        self._mark = (self.now, self.link.busy_s, self.link.bytes_moved)
        return self.stall_s > 0
