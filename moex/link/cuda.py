"""Copies from pinned host memory to a GPU on a separate CUDA stream."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import torch

from moex.link.base import Link, LinkStats
from moex.link.pinned import pin

if TYPE_CHECKING:
    from moex.hardware.profile import HardwareProfile
    from moex.store.base import ExpertStore
    from moex.store.ram import RamStore
    from moex.store.slots import Slots
    from moex.types import Expert, Load, Plan

AHEAD = 2
"""Chunks of prefetches on the stream at once: what a demanded load may have to wait for."""

CHUNK = 16 << 20
"""Bytes of a chunk: a third of a millisecond on PCIe 5. Enqueueing a chunk costs the computing
thread tens of microseconds; while it waits for the device (once a layer), none is enqueued."""


class _Copy:
    """One load: its bytes enqueued so far, and the event after its last byte."""

    __slots__ = ("done", "expert", "queued", "sent", "slot", "speculative")

    def __init__(self, load: Load) -> None:
        self.expert, self.slot, self.speculative = load.expert, load.slot, load.speculative
        self.queued, self.sent = perf_counter(), 0
        self.done: torch.cuda.Event | None = None


class _Piece(NamedTuple):
    """One enqueued copy, between two events."""

    copy: _Copy
    bytes: int
    last: bool
    begun: torch.cuda.Event
    ended: torch.cuda.Event


class CudaLink(Link):
    """One event per load, one fence per slot, and no host synchronization of its own.

    The compute stream waits for a load's event on the device; a copy into a slot waits there for
    the last CUDA kernel that read the slot. Demand is enqueued at once. Prefetches are enqueued in
    chunks, a few at a time, whenever the link is called: so demand overtakes what is not enqueued
    yet, and the rest of a dropped prefetch is not sent. Seconds are read from completed events: the
    runner reads the routing back once a layer, and nothing else waits for the device. The same
    events give the timeline, on the host's clock.

    Args:
        store: experts in host memory; page-locked here, where the driver allows it, until the
            store frees the memory, because page-locking takes as long as copying it.
        slots: the slots on the device.
        chunk_bytes: demand overtakes prefetches at this granularity; default `CHUNK`.
    """

    name = "cuda"
    rank = 2

    @classmethod
    def suits(cls, store: ExpertStore, slots: Slots, hardware: HardwareProfile | None) -> bool:
        """Copies whole records from host memory to a GPU."""
        return store.in_memory and slots.records.is_cuda and not slots.by_row

    def __init__(self, store: RamStore, slots: Slots, chunk_bytes: int | None = None) -> None:
        self.store, self.slots, self.chunk_bytes = store, slots, chunk_bytes or CHUNK
        self._size = store.layout.bytes
        self._device = slots.records.device
        self._stream = torch.cuda.Stream(self._device)
        self._pinned = pin(store.records)
        self._fences: dict[int, torch.cuda.Event] = {}
        self._expected: dict[int, _Copy] = {}
        self._in_flight: deque[_Copy] = deque()
        self._under_way: deque[torch.cuda.Event] = deque()
        self._pieces: deque[_Piece] = deque()
        self._waits: deque[tuple[Expert, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._bytes, self._busy = 0, 0.0
        # Wait for everything that was computed or written to slots before the link existed.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._zero = self._event(self._stream)
        self._zero.synchronize()
        self._zero_s = perf_counter()

    @property
    def pinned(self) -> bool:
        """Whether the source is page-locked: copies then overlap computing, at full speed."""
        return self._pinned

    def submit(self, plan: Plan) -> None:
        """Stop stale loads; enqueue demand; queue prefetches."""
        for slot in plan.stale:
            copy = self._expected.pop(slot, None)
            if copy is not None and copy in self._in_flight:
                self._in_flight.remove(copy)
        for load in plan.loads:
            copy = self._expected[load.slot] = _Copy(load)
            if load.speculative:
                self._in_flight.append(copy)
            else:
                self._send(copy, self._size)
        self._feed()

    def wait(self, slot: int) -> bool:
        """Let the compute stream wait for the slot's load; returns whether it is in flight.

        The seconds of that wait are known once its events have completed.
        """
        copy = self._expected.pop(slot, None)
        if copy is None:
            return False
        if copy.done is None:
            self._in_flight.remove(copy)
            self._send(copy, self._size - copy.sent)
        assert copy.done is not None
        stream = torch.cuda.current_stream(self._device)
        late = not copy.done.query()
        if late:
            before = self._event(stream)
            stream.wait_event(copy.done)
            self._waits.append((copy.expert, before, self._event(stream)))
        else:
            stream.wait_event(copy.done)
        self._feed()
        return late

    def used(self, slot: int) -> None:
        """Record the slot's fence: the CUDA kernel that reads it has been launched."""
        fence = self._fences.get(slot)
        if fence is None:
            fence = self._fences[slot] = torch.cuda.Event()
        fence.record(torch.cuda.current_stream(self._device))
        self._feed()

    def stats(self) -> LinkStats:
        """Bytes enqueued, seconds of the copies that have completed and of waits that have ended.

        The compute stream waits, on the device: that is what is counted as stall.
        """
        while self._waits and self._waits[0][2].query():
            expert, before, after = self._waits.popleft()
            started = 0.0 if self.log is None else self._when(before)
            self.stalled(expert, started, before.elapsed_time(after) / 1000)
        while self._pieces and self._pieces[0].ended.query():
            copy, size, last, begun, ended = self._pieces.popleft()
            self._busy += begun.elapsed_time(ended) / 1000
            if self.log is not None:
                till = self._when(ended)
                self.log.append(("move", copy.expert, self._when(begun), till, size, self.name))
                if last:
                    self.log.append(("load", copy.expert, copy.queued, till, copy.speculative))
        return LinkStats(self._bytes, self._busy, self.stall_s)

    def restart(self) -> None:
        """Wait for the enqueued copies, and discard the others."""
        self._stream.synchronize()
        for forgotten in (self._in_flight, self._expected, self._under_way, self._waits):
            forgotten.clear()

    def close(self) -> None:
        """Wait for the copies in flight."""
        self._in_flight.clear()
        self._stream.synchronize()

    def _feed(self) -> None:
        """Enqueue the next chunks of prefetches, if few are in flight."""
        while self._under_way and self._under_way[0].query():
            self._under_way.popleft()
        while self._in_flight and len(self._under_way) < AHEAD:
            copy = self._in_flight[0]
            self._send(copy, min(self.chunk_bytes, self._size - copy.sent))
            self._under_way.append(self._pieces[-1].ended)
            if copy.done is not None:
                self._in_flight.popleft()

    def _send(self, copy: _Copy, size: int) -> None:
        """Enqueue the copy of the next `size` bytes of a load."""
        span = slice(copy.sent, copy.sent + size)
        source = self.store.records[copy.expert.layer][copy.expert.index]
        with torch.cuda.stream(self._stream):
            fence = None if copy.sent else self._fences.get(copy.slot)
            if fence is not None:
                self._stream.wait_event(fence)
            begun = self._event(self._stream)
            give(self.slots.records[copy.slot][span], source[span])
            ended = self._event(self._stream)
        copy.sent += size
        copy.done = ended if copy.sent == self._size else None
        self._bytes += size
        self._pieces.append(_Piece(copy, size, copy.done is not None, begun, ended))

    @staticmethod
    def _event(stream: torch.cuda.Stream) -> torch.cuda.Event:
        """A new event, recorded on the stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    def _when(self, event: torch.cuda.Event) -> float:
        """The time of a completed event, on the clock of `perf_counter`."""
        return self._zero_s + self._zero.elapsed_time(event) / 1000


def give(target: torch.Tensor, source: torch.Tensor) -> None:
    """Enqueue a copy on the current stream, without waiting for it."""
    target.copy_(source, non_blocking=True)
