"""Model of a link: latency, bandwidth, queueing, and demand that overtakes prefetches.

One transfer uses the link at a time, in chunks. At every chunk boundary demand goes first; a
transfer that has begun is never cancelled, only overtaken, and one that is waited for counts as
demand. The simulator drives the model with virtual time and the emulated link with the machine's
clock, so that both wait for the same times.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True, eq=False)
class Transfer:
    """One load in flight; times are seconds of the clock that drives the link.

    It is `urgent` from the start if it is demanded, and as soon as it is waited for.
    """

    bytes: int
    speculative: bool
    submitted: float
    latency: float
    remaining: int = field(init=False)
    urgent: bool = field(init=False)
    done: float = inf
    cancelled: bool = False
    label: object = None

    def __post_init__(self) -> None:
        self.remaining, self.urgent = self.bytes, not self.speculative

    @property
    def started(self) -> bool:
        """Whether the first chunk has been sent."""
        return self.remaining < self.bytes


class LinkTimeline:
    """The queue of one link.

    Args:
        bytes_per_s: bandwidth, without latency.
        latency_s: paid once by every transfer before its first byte.
        chunk_bytes: bytes sent between two checks of priorities.
    """

    def __init__(self, bytes_per_s: float, latency_s: float = 0.0, chunk_bytes: int = 1 << 22):
        self.bytes_per_s, self.latency_s, self.chunk_bytes = bytes_per_s, latency_s, chunk_bytes
        self.demand: deque[Transfer] = deque()
        self.speculation: deque[Transfer] = deque()
        self.free_at = 0.0
        self.busy_s = 0.0
        self.bytes_moved = 0
        self.on_chunk: Callable[[Transfer, float, float, int], None] | None = None

    def submit(
        self, now: float, size: int, speculative: bool = False, label: object = None
    ) -> Transfer:
        """Queue a transfer of `size` bytes at time `now`."""
        self.advance(now)
        transfer = Transfer(size, speculative, now, self.latency_s, label=label)
        self._queue(transfer).append(transfer)
        return transfer

    def _queue(self, transfer: Transfer) -> deque[Transfer]:
        return self.demand if transfer.urgent else self.speculation

    def cancel(self, now: float, transfer: Transfer) -> bool:
        """Cancel a transfer that has not begun; return whether it was cancelled."""
        self.advance(now)
        if transfer.started or transfer.cancelled:
            return False
        self._queue(transfer).remove(transfer)
        transfer.cancelled = True
        return True

    def advance(self, now: float) -> None:
        """Send every chunk that begins before `now`."""
        while True:
            queue = self.demand or self.speculation
            if not queue:
                return
            transfer = queue[0]
            start = max(self.free_at, transfer.submitted)
            if self.demand and self.speculation and self.demand[0].submitted > self.free_at:
                # The link was free before demand was submitted: it sent a prefetch meanwhile.
                transfer = self.speculation[0]
                start = max(self.free_at, transfer.submitted)
                if start >= self.demand[0].submitted:
                    transfer, start = self.demand[0], self.demand[0].submitted
            if start >= now:
                return
            self._send(transfer, start)

    def _send(self, transfer: Transfer, start: float) -> None:
        chunk = min(self.chunk_bytes, transfer.remaining)
        took = chunk / self.bytes_per_s + (0.0 if transfer.started else transfer.latency)
        transfer.remaining -= chunk
        self.free_at = start + took
        self.busy_s += took
        self.bytes_moved += chunk
        if not transfer.remaining:
            transfer.done = self.free_at
            self._queue(transfer).popleft()
        if self.on_chunk is not None:
            self.on_chunk(transfer, start, self.free_at, chunk)

    def arrival(self, now: float, transfer: Transfer) -> float:
        """Return when the transfer completes, if nothing else is submitted before.

        The caller waits for it: a prefetch counts as demand from now on.
        """
        self.advance(now)
        if transfer.done < inf:
            return transfer.done
        if not transfer.urgent:
            self.speculation.remove(transfer)
            transfer.urgent = True
            self.demand.append(transfer)
        when = max(self.free_at, now)
        for waiting in self.demand:
            when += waiting.remaining / self.bytes_per_s
            when += 0.0 if waiting.started else waiting.latency
            if waiting is transfer:
                break
        return when
