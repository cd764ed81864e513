"""Model of two links in series: disk to host memory, host memory to device."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from moex.hardware.link_model import LinkTimeline, Transfer

if TYPE_CHECKING:
    from moex.hardware.profile import HardwareProfile
    from moex.types import Plan


class TieredTimeline(LinkTimeline):
    """The queue of the link to the device, and of the disk before it.

    An expert that host memory lacks is read first, and queues for the link once all of it is there:
    both links are busy with it, one after the other, and with different experts at a time.

    Args:
        disk: the disk's link, of its own bandwidth and latency.
        bytes_per_s, latency_s, chunk_bytes: of the link to the device.
    """

    def __init__(
        self,
        disk: LinkTimeline,
        bytes_per_s: float,
        latency_s: float = 0.0,
        chunk_bytes: int = 1 << 22,
    ) -> None:
        super().__init__(bytes_per_s, latency_s, chunk_bytes)
        self.disk = disk
        self._reads: dict[Transfer, Transfer] = {}
        """By transfer that is still to come: its read from the disk."""

    def fetch(
        self, now: float, size: int, speculative: bool = False, label: object = None
    ) -> Transfer:
        """Queue a read from the disk, and after it a transfer to the device; return the latter."""
        self.advance(now)
        transfer = Transfer(size, speculative, now, self.latency_s, label=label)
        self._reads[transfer] = self.disk.submit(now, size, speculative, label)
        return transfer

    def cancel(self, now: float, transfer: Transfer) -> bool:
        """Cancel a transfer that has not begun; one whose read has begun goes on."""
        self.advance(now)
        read = self._reads.get(transfer)
        if read is None:
            return super().cancel(now, transfer)
        if self.disk.cancel(now, read):
            del self._reads[transfer]
            transfer.cancelled = True
        return transfer.cancelled

    def advance(self, now: float) -> None:
        """Send every chunk that begins before `now`, on both links."""
        if self._reads:
            self.disk.advance(now)
            done = [pair for pair in self._reads.items() if pair[1].done <= now]
            for transfer, read in sorted(done, key=lambda pair: pair[1].done):
                super().advance(read.done)
                del self._reads[transfer]
                transfer.submitted, transfer.urgent = read.done, read.urgent
                self._queue(transfer).append(transfer)
        super().advance(now)

    def arrival(self, now: float, transfer: Transfer) -> float:
        """Return when the transfer completes; the caller waits until then."""
        self.advance(now)
        read = self._reads.get(transfer)
        if read is not None:
            when = self.disk.arrival(now, read)
            self.disk.advance(when)
            now = max(when, read.done if read.done < inf else when)
            self.advance(now)
        return super().arrival(now, transfer)


def timeline(profile: HardwareProfile, tiered: bool) -> LinkTimeline:
    """Return the idle link of a timed profile; `tiered`: with the disk before it.

    Raises:
        ValueError: the profile does not say how fast its disk is.
    """
    assert profile.link_bytes_per_s is not None
    link = profile.link_bytes_per_s, profile.link_latency_s, profile.chunk_bytes
    if not tiered:
        return LinkTimeline(*link)
    if profile.disk_bytes_per_s is None:
        raise ValueError(
            f"hardware={profile.name}: does not say how fast its disk is read, which memory.host "
            "needs; try ++hardware.disk_bytes_per_s=5e9, or memory.host=null"
        )
    disk = LinkTimeline(profile.disk_bytes_per_s, profile.disk_latency_s, profile.chunk_bytes)
    return TieredTimeline(disk, *link)


def in_series(profile: HardwareProfile, from_disk: float) -> HardwareProfile:
    """Return a profile of one link, which takes as long as the mean load of a host tier.

    Args:
        profile: of a timed machine.
        from_disk: share of the loads that are read from the disk first.

    Raises:
        ValueError: the profile does not say how fast its disk is.
    """
    timeline(profile, tiered=True)
    assert profile.link_bytes_per_s is not None
    assert profile.disk_bytes_per_s is not None
    per_byte = 1 / profile.link_bytes_per_s + from_disk / profile.disk_bytes_per_s
    latency = profile.link_latency_s + from_disk * profile.disk_latency_s
    return replace(profile, link_bytes_per_s=1 / per_byte, link_latency_s=latency)


def submit(link: LinkTimeline, now: float, size: int, plan: Plan) -> list[Transfer]:
    """Queue the loads of a plan with a host tier, after what it demotes; return theirs.

    Args:
        link: of `timeline`.
        now: when.
        size: bytes of an expert.
        plan: whose `sources` say which loads are read from the disk.
    """
    assert isinstance(link, TieredTimeline)
    for each in plan.demoted:
        link.submit(now, size, speculative=True, label=each.expert)
    return [
        (link.submit if source.hit else link.fetch)(now, size, load.speculative, load.expert)
        for load, source in zip(plan.loads, plan.sources, strict=True)
    ]
