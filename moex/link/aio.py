"""Reads experts from files into slots with Linux asynchronous I/O, without reader threads."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from moex.hardware.profile import HardwareProfile
from moex.link.base import Link, LinkStats
from moex.link.queue import ReadQueue
from moex.store.layout import PAGE
from moex.store.linux_aio import AsyncReads, Request, async_reads_work

if TYPE_CHECKING:
    from moex.link.queue import Read
    from moex.store.base import ExpertStore
    from moex.store.disk import DiskStore
    from moex.store.slots import Slots
    from moex.types import Plan

DEPTH = 64
"""Maximum number of reads that are submitted to Linux aio at once."""

AHEAD = 1
"""Prefetches start while fewer reads than this are in flight: bounds what a demand waits for."""


class AioLink(Link):
    """Submits reads to Linux aio from the computing thread, which goes on computing meanwhile.

    A plan's first read is submitted alone: disks finish reads of one batch at the same time, and
    computing can start as soon as the first record has arrived. The others follow at once.

    Every read is a whole record, so this link is for small ones: nothing overtakes a read in
    flight, and reads start only when the computing thread calls the link (`submit`, `wait`,
    `used`). Large records, whose hand-over to a thread is cheap beside the read, use `DiskLink`.

    Args:
        store: the store to read from; it must read around the page cache.
        slots: the device slots to read into.

    Raises:
        OSError: Linux aio is not available.
    """

    name, io = "disk", "aio"
    rank = 3

    @classmethod
    def suits(cls, store: ExpertStore, slots: Slots, hardware: HardwareProfile | None) -> bool:
        """Reads records of one piece into host memory, around the page cache."""
        small = store.layout.bytes <= (hardware or HardwareProfile).chunk_bytes
        whole = slots.records.device.type == "cpu" and not slots.by_row
        whole = whole and store.in_pieces
        return whole and small and store.io == "direct" and async_reads_work()

    def __init__(self, store: DiskStore, slots: Slots) -> None:
        self.store, self.slots = store, slots
        # Touch every page now, because the first access waits until the system has cleared it.
        slots.records.view(-1)[::PAGE] = 0
        depth = min(DEPTH, len(slots.records))
        self._make = lambda: AsyncReads(depth, slots.records)
        self._aio = self._make()  # keeps the records alive while the kernel writes to them
        self._addresses = [record.data_ptr() for record in slots.records]
        self._bytes, self._busy = 0, 0.0
        self._watched = [0, 0.0]  # bytes and seconds of reads whose end was observed
        self._start()

    def _start(self) -> None:
        self._queue = ReadQueue(self.store, self.slots)
        self._flying: dict[int, Read] = {}
        self._together = False
        self._landed: deque[Read] = deque()
        self._since = self._looked = self._moving = 0.0

    def submit(self, plan: Plan) -> None:
        """Cancel dropped prefetches that have not begun, queue the plan's loads, start reads."""
        if plan.transfers or plan.dropped:
            self._together = self._together and bool(self._queue.demand)
            self._queue.take(plan)
            self._look()

    def wait(self, slot: int) -> bool:
        """Wait for the read into the slot; a prefetch in flight becomes a demand.

        Raises:
            RuntimeError: the record could not be read, or is not what was packed.
        """
        read = self._queue.last.get(slot)
        if read is None:
            return False
        if not read.done:
            self._queue.promote(read)
            self._look()
        late = not read.done
        if late:
            started = perf_counter()
            while not read.done:
                self._look(wait=True)
            self.stalled(read.expert, started, perf_counter() - started)
        read.raise_error()
        return late

    def used(self, slot: int) -> None:
        """Collect finished reads and start the next ones: no other thread does it."""
        if self._ended():
            self._look()

    def stats(self) -> LinkStats:
        """Bytes read, and seconds in which any read was in flight.

        The end of a read that finished between two polls is estimated: at the rate of the reads
        that were waited for, whose end is observed; before there are any, midway between the polls.
        """
        if self._ended():
            self._look()
        running = perf_counter() - self._since if self._flying else 0.0
        return LinkStats(self._bytes, self._busy + running, self.stall_s)

    def restart(self) -> None:
        """Wait for all reads in flight, including unrecorded ones, and start again empty."""
        self._aio.close()
        self._aio = self._make()
        self._start()

    def close(self) -> None:
        """Wait for all reads in flight; afterwards the kernel writes to no slot."""
        self._aio.close()
        self._flying.clear()
        self._queue.close()

    def _look(self, wait: bool = False) -> None:
        """Collect finished reads (with `wait`: at least one), and start the next ones."""
        try:
            if self._ended() or (wait and self._flying):
                self._collect(wait and not self._landed)
            while self._landed:
                self._complete(self._landed[0])
                self._landed.popleft()
            self._begin()
        except OSError:  # the queue belongs to another process: this is a forked child
            self._recover()
        except BaseException:
            self._recover()
            raise

    def _ended(self) -> bool:
        """Whether a read in flight has ended; if not, remember when this was checked."""
        if not self._flying:
            return False
        if self._aio.any_ended():
            return True
        self._looked = perf_counter()
        return False

    def _begin(self) -> None:
        """Submit all demanded reads, and prefetches while few reads are in flight."""
        flying, requests = self._flying, []
        prefetches = sum(read.speculative for read in flying.values())
        for queue, limit in (
            (self._queue.demand, self._aio.depth if self._together else 1 + prefetches),
            (self._queue.speculation, AHEAD),
        ):
            while len(flying) < limit and (read := self._queue.next(queue)) is not None:
                flying[read.slot] = read
                queue.remove(read)
                read.begun = read.size
                (file, offset), address = self.store.where(read.expert), self._addresses[read.slot]
                requests.append(Request(read.slot, file, address, read.size, offset))
        if not requests:
            return
        self._looked = perf_counter()
        if len(flying) == len(requests):
            self._since = self._moving = self._looked
        try:
            taken = self._aio.begin(requests)
        except OSError:
            taken = 0
        self._landed += [flying.pop(request.tag) for request in requests[taken:]]

    def _collect(self, wait: bool) -> None:
        """Collect the reads that have ended, and count their bytes and seconds."""
        results = self._aio.ended(wait=False) if self._aio.any_ended() else []
        if seen := wait and not results:
            results = self._aio.ended(wait=True)
        now, moved = perf_counter(), sum(max(result, 0) for _, result in results)
        ended = now if seen else self._estimated(moved, now)
        if seen:
            self._watched[0] += moved
            self._watched[1] += now - self._moving
        self._looked = now
        self._together = self._together or bool(results)
        for slot, result in results:
            read = self._flying[slot]
            read.missing = read.size - max(result, 0)
            self._landed.append(read)
            del self._flying[slot]
            if self.log is not None:
                arrived = read.size - read.missing
                self.log.append(("move", read.expert, self._moving, ended, arrived, "kernel"))
                self.log.append(("load", read.expert, read.queued, ended, read.speculative))
            self._moving = ended
        if results and not self._flying:
            self._busy += ended - self._since

    def _estimated(self, moved: int, now: float) -> float:
        """Estimate when reads of `moved` bytes ended, between the last poll and `now`."""
        size, seconds = self._watched
        if not size:
            return (self._looked + now) / 2
        return min(max(self._moving + moved * seconds / size, self._looked), now)

    def _complete(self, read: Read) -> None:
        """Check a record against its checksum; an incomplete record is read again by the store.

        So one failed read is tolerated, and a second failure raises the store's own error.
        """
        try:
            if read.missing:
                self.store.read(read.expert, read.record)
            else:
                self.store.check(read.expert, read.record)
            self._bytes += read.size
        except Exception as error:
            read.error = error
        read.done = True

    def _recover(self) -> None:
        """Wait for all submitted reads, and mark those whose result is lost to be read again."""
        self._aio.close()
        self._aio = self._make()
        lost = [read for read in self._flying.values() if read not in self._landed]
        for read in lost:
            read.missing = read.size
            for queue in (self._queue.demand, self._queue.speculation):
                if read in queue:
                    queue.remove(read)
        self._landed += lost
        self._flying.clear()
