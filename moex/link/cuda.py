"""Copies from pinned host memory to a GPU on a stream of their own."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from moex.link.base import Link, LinkStats

if TYPE_CHECKING:
    from moex.store.ram import RamStore
    from moex.store.slots import Slots
    from moex.types import Expert, Plan

AHEAD = 2
"""Chunks of guesses under way at once: what a demanded load may find before it on the stream."""

LATE = 1e-9
"""What `wait` returns for a copy still under way: how long it took is known later (`settle`)."""

log = logging.getLogger(__name__)


class _Copy:
    """One load: how much of it has been given to the stream, and events around it."""

    __slots__ = ("begun", "done", "expert", "place", "sent")

    def __init__(self, expert: Expert, place: int) -> None:
        self.expert, self.place, self.sent = expert, place, 0
        self.begun = torch.cuda.Event(enable_timing=True)
        self.done = torch.cuda.Event(enable_timing=True)


class CudaLink(Link):
    """An event per load, a fence per place, and no host synchronization of its own.

    The compute stream waits for a load's event on the device; a copy into a place waits there for
    the last kernel that read it. Demand is given to the stream at once; guesses are given in
    chunks, a few at a time, whenever the link is called, so that demand overtakes what has not been
    given and a dropped guess is not sent on. Seconds are taken from events once these are over: the
    runner reads the routing back once a layer, and nothing else waits for the device.

    Args:
        store: experts in host memory; pinned here where the driver allows it.
        slots: on the device.
        chunk_bytes: demand overtakes guesses at this granularity.
    """

    name = "cuda"

    def __init__(self, store: RamStore, slots: Slots, chunk_bytes: int = 4 << 20) -> None:
        self.store, self.slots, self.chunk_bytes = store, slots, chunk_bytes
        self._size = store.layout.bytes
        self._device = slots.records.device
        self._stream = torch.cuda.Stream(self._device)
        self._pinned = pin(store.records)
        self._fences: dict[int, torch.cuda.Event] = {}
        self._expected: dict[int, _Copy] = {}
        self._guesses: deque[_Copy] = deque()
        self._under_way: deque[torch.cuda.Event] = deque()
        self._copies: deque[_Copy] = deque()
        self._waits: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._bytes, self._busy = 0, 0.0
        # What was computed or written into places before the link existed is over.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    @property
    def pinned(self) -> bool:
        """Whether the source is page-locked: copies then run beside computing, at full speed."""
        return bool(self._pinned)

    def submit(self, plan: Plan) -> None:
        """Stop sending dropped guesses; send demand; queue guesses."""
        for gone in plan.dropped:
            copy = self._expected.pop(gone.slot, None)
            if copy is not None and copy in self._guesses:
                self._guesses.remove(copy)
        for load in plan.loads:
            copy = self._expected[load.slot] = _Copy(load.expert, load.slot)
            if load.speculative:
                self._guesses.append(copy)
            else:
                self._send(copy, self._size)
        self._feed()

    def wait(self, place: int) -> float:
        """Let the compute stream wait for the place's load; `LATE` if it is still under way."""
        copy = self._expected.pop(place, None)
        if copy is None:
            return 0.0
        if copy.sent < self._size:
            self._guesses.remove(copy)
            self._send(copy, self._size - copy.sent)
        stream = torch.cuda.current_stream(self._device)
        late = not copy.done.query()
        if late:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record(stream)
        stream.wait_event(copy.done)
        if late:
            after.record(stream)
            self._waits.append((before, after))
        self._feed()
        return LATE if late else 0.0

    def used(self, place: int) -> None:
        """Put up the fence: the kernel that reads the place has been launched."""
        fence = self._fences.get(place)
        if fence is None:
            fence = self._fences[place] = torch.cuda.Event()
        fence.record(torch.cuda.current_stream(self._device))
        self._feed()

    def settle(self) -> float:
        """Seconds that the compute stream has waited, of waits that ended since the last call."""
        seconds = 0.0
        while self._waits and self._waits[0][1].query():
            before, after = self._waits.popleft()
            seconds += before.elapsed_time(after) / 1000
        return seconds

    def stats(self) -> LinkStats:
        """Bytes given to the stream, and seconds of copies that are through."""
        while self._copies and self._copies[0].done.query():
            copy = self._copies.popleft()
            self._busy += copy.begun.elapsed_time(copy.done) / 1000
        return LinkStats(self._bytes, self._busy)

    def close(self) -> None:
        """Let copies under way end, and unpin."""
        self._guesses.clear()
        self._stream.synchronize()
        unpin(self._pinned)
        self._pinned = []

    def _feed(self) -> None:
        """Give the stream the next chunks of guesses, if few are under way."""
        while self._under_way and self._under_way[0].query():
            self._under_way.popleft()
        while self._guesses and len(self._under_way) < AHEAD:
            copy = self._guesses[0]
            self._send(copy, min(self.chunk_bytes, self._size - copy.sent))
            if copy.sent == self._size:
                self._guesses.popleft()
                self._under_way.append(copy.done)
            else:
                event = torch.cuda.Event()
                event.record(self._stream)
                self._under_way.append(event)

    def _send(self, copy: _Copy, size: int) -> None:
        span = slice(copy.sent, copy.sent + size)
        with torch.cuda.stream(self._stream):
            if not copy.sent:
                fence = self._fences.get(copy.place)
                if fence is not None:
                    self._stream.wait_event(fence)
                copy.begun.record(self._stream)
            source = self.store.records[copy.expert.layer][copy.expert.index]
            self.slots.records[copy.place][span].copy_(source[span], non_blocking=True)
            copy.sent += size
            self._bytes += size
            if copy.sent == self._size:
                copy.done.record(self._stream)
                self._copies.append(copy)


def pin(records: list[torch.Tensor]) -> list[torch.Tensor]:
    """Page-lock memory where it is; return what was locked: all of it, or nothing and a notice.

    Not through torch's own pinned memory: that is handed out in powers of two, and a layer of
    Mixtral would take 4 GB for 2.8.
    """
    runtime = torch.cuda.cudart()
    locked: list[torch.Tensor] = []
    for record in records:
        code = int(runtime.cudaHostRegister(record.data_ptr(), record.nbytes, 0))
        if code:
            log.warning(
                "moex: the driver pins no more host memory (error %d after %d of %d layers): "
                "copies come from pageable memory, slower and not beside computing; "
                "try memory.store=disk, or a higher limit of locked memory (ulimit -l)",
                code,
                len(locked),
                len(records),
            )
            unpin(locked)
            with suppress(RuntimeError):  # or the next kernel's launch reports this as its own
                torch.ones(1, device="cuda").add_(1)
            return []
        locked.append(record)
    return locked


def unpin(records: list[torch.Tensor]) -> None:
    """Unlock what `pin` locked."""
    for record in records:
        torch.cuda.cudart().cudaHostUnregister(record.data_ptr())
