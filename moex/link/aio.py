"""Reads experts from files into their places without a thread: the kernel does it by itself."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from moex.link.base import Link, LinkStats
from moex.link.queue import ReadQueue
from moex.store.layout import PAGE
from moex.store.linux_aio import AsyncReads, Request, async_reads_work

if TYPE_CHECKING:
    from moex.link.queue import Read
    from moex.store.disk import DiskStore
    from moex.store.slots import Slots
    from moex.types import Plan

DEPTH = 64
"""Reads that the kernel is given at once, at most."""

AHEAD = 1
"""Guesses begin while fewer reads than this are under way: a demand waits for no more of them."""

PIECE = 4 << 20
"""Bytes of a record up to which it is read in one piece."""


def suits_aio(store: DiskStore, chunk_bytes: int = PIECE) -> bool:
    """Whether the kernel should read from this store: records of one piece, around the page cache.

    Args:
        store: where records come from.
        chunk_bytes: a piece; larger records are for reader threads.
    """
    small = store.layout.name == "planes" and store.layout.bytes <= chunk_bytes
    return small and store.io == "direct" and async_reads_work()


class AioLink(Link):
    """The computing thread hands reads to the kernel and computes on.

    A plan's first read goes alone: disks end reads that they were given together together, and once
    the first is there, there is something to compute. The others follow at once.

    Every read is a whole record, so this is for small ones: nothing overtakes a read under way, and
    reads begin only when the computing thread comes by (to submit, to wait, after an expert). To
    hand a large record over costs next to nothing beside its reading: it is for `DiskLink`.

    Args:
        store: where records come from; it reads around the page cache.
        slots: the places that they are read into.

    Raises:
        OSError: the kernel has no such reads for us.
    """

    name, io = "disk", "aio"

    def __init__(self, store: DiskStore, slots: Slots) -> None:
        self.store, self.slots = store, slots
        # Whoever touches memory first waits until the system has cleared it: not a read.
        slots.records.view(-1)[::PAGE] = 0
        depth = min(DEPTH, len(slots.records))
        self._make = lambda: AsyncReads(depth, slots.records)
        self._kernel = self._make()  # keeps the records while it writes there
        self._addresses = [record.data_ptr() for record in slots.records]
        self._bytes, self._busy = 0, 0.0
        self._watched = [0, 0.0]  # bytes and seconds of reads whose end was seen
        self._start()

    def _start(self) -> None:
        self._queue = ReadQueue(self.store, self.slots)
        self._flying: dict[int, Read] = {}
        self._together = False
        self._landed: deque[Read] = deque()
        self._since = self._looked = self._moving = 0.0

    def submit(self, plan: Plan) -> None:
        """Take back dropped guesses that have not begun, queue the plan's loads, begin reads."""
        if plan.transfers or plan.dropped:
            self._together = self._together and bool(self._queue.demand)
            self._queue.take(plan)
            self._look()

    def wait(self, slot: int) -> float:
        """Return when the read into the place is over; a late guess is demanded from now on.

        Raises:
            RuntimeError: the record could not be read, or is not what was packed.
        """
        read, stall = self._queue.last.get(slot), 0.0
        if read is None:
            return stall
        if not read.done:
            self._queue.promote(read)
            self._look()
        if not read.done:
            started = perf_counter()
            while not read.done:
                self._look(wait=True)
            stall = perf_counter() - started
            if self.log is not None:
                self.log.append(("stall", read.expert, started, stall))
        read.raise_error()
        return stall

    def used(self, slot: int) -> None:
        """Look what has come meanwhile, and begin what may: there is nobody else who does."""
        if self._ended():
            self._look()

    def stats(self) -> LinkStats:
        """Bytes that were read, and seconds in which the kernel was reading.

        A read that ended between two looks is taken to have been as fast as those that were waited
        for, whose end is seen; before there were any, to have ended midway.
        """
        if self._ended():
            self._look()
        running = perf_counter() - self._since if self._flying else 0.0
        return LinkStats(self._bytes, self._busy + running)

    def restart(self) -> None:
        """Let the reads under way end, whoever knows about them, and begin anew."""
        self._kernel.close()
        self._kernel = self._make()
        self._start()

    def close(self) -> None:
        """Let the reads under way end; the kernel writes into no place any more."""
        self._kernel.close()
        self._flying.clear()
        self._queue.close()

    def _look(self, wait: bool = False) -> None:
        """Book what has come (if asked to wait: one read at least), and begin what may begin."""
        try:
            if self._ended() or (wait and self._flying):
                self._collect(wait and not self._landed)
            while self._landed:
                self._complete(self._landed[0])
                self._landed.popleft()
            self._begin()
        except OSError:  # a queue that is not ours: we are a forked child
            self._recover()
        except BaseException:
            self._recover()
            raise

    def _ended(self) -> bool:
        """Whether a read under way has ended; if not, this was the last look."""
        if not self._flying:
            return False
        if self._kernel.any_ended():
            return True
        self._looked = perf_counter()
        return False

    def _begin(self) -> None:
        """Give the kernel all that is demanded, and guesses while it has little to do."""
        flying, requests = self._flying, []
        prefetches = sum(read.speculative for read in flying.values())
        for queue, limit in (
            (self._queue.demand, self._kernel.depth if self._together else 1 + prefetches),
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
            taken = self._kernel.begin(requests)
        except OSError:
            taken = 0
        self._landed += [flying.pop(request.tag) for request in requests[taken:]]

    def _collect(self, wait: bool) -> None:
        """Take what has ended out of the kernel's hands."""
        results = self._kernel.ended(wait=False) if self._kernel.any_ended() else []
        if seen := wait and not results:
            results = self._kernel.ended(wait=True)
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
                came = read.size - read.missing
                self.log.append(("move", read.expert, self._moving, ended, came, "kernel"))
                self.log.append(("load", read.expert, read.queued, ended, read.speculative))
            self._moving = ended
        if results and not self._flying:
            self._busy += ended - self._since

    def _estimated(self, moved: int, now: float) -> float:
        """When reads of so many bytes ended, between the last look and now."""
        size, seconds = self._watched
        if not size:
            return (self._looked + now) / 2
        return min(max(self._moving + moved * seconds / size, self._looked), now)

    def _complete(self, read: Read) -> None:
        """Compare a record with its checksum; what did not come whole the store reads again.

        So a read that fails once is no failure, and one that fails twice says what the store says.
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
        """Let all that the kernel was given end, and read again what nobody knows about."""
        self._kernel.close()
        self._kernel = self._make()
        lost = [read for read in self._flying.values() if read not in self._landed]
        for read in lost:
            read.missing = read.size
            for queue in (self._queue.demand, self._queue.speculation):
                if read in queue:
                    queue.remove(read)
        self._landed += lost
        self._flying.clear()
