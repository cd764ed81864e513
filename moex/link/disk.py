"""Reads experts from files into slots with reader threads."""

from __future__ import annotations

import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

from moex.hardware.profile import HardwareProfile
from moex.link.base import Link, LinkStats, join, refuse_other_streams
from moex.link.queue import ReadQueue
from moex.link.wakeup import Wakeup
from moex.store.layout import PAGE

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from moex.cache.memory import Memory
    from moex.link.queue import Read
    from moex.store.base import ExpertStore
    from moex.store.disk import DiskStore
    from moex.store.slots import Slots
    from moex.types import Plan


class DiskLink(Link):
    """Reader threads that fetch loads piece by piece, demanded loads first.

    Several threads share the pieces of one expert, so that a single demanded expert uses the full
    bandwidth of the disk; the computing thread reads too while it waits. A read that has begun is
    always finished; the next load into the same slot waits for it.

    Args:
        store: the store to read from.
        slots: the device slots to read into.
        threads: number of reader threads; they share the cores with the computing threads.
        chunk_bytes: size of a piece; demand overtakes prefetches between pieces.
    """

    name = "disk"
    rank = 2
    in_parts = True

    @classmethod
    def suits(cls, store: ExpertStore, slots: Slots, hardware: HardwareProfile | None) -> bool:
        """Reads any file."""
        return store.io is not None

    @classmethod
    def open(
        cls, store: Any, slots: Slots, memory: Memory, hardware: HardwareProfile | None
    ) -> Self:
        """Take the threads from the settings, the pieces from the hardware profile."""
        return cls(store, slots, memory.reader_threads, (hardware or HardwareProfile).chunk_bytes)

    def __init__(
        self, store: DiskStore, slots: Slots, threads: int = 1, chunk_bytes: int = 4 << 20
    ) -> None:
        self.store, self.slots = store, slots
        self._piece = max(chunk_bytes // PAGE, 1) * PAGE
        self._bytes, self._busy = 0, 0.0
        self._readers = threads
        self._threads: list[threading.Thread] = []
        self._start()

    def _start(self) -> None:
        self._queue = ReadQueue(self.store, self.slots)
        self._changed = Wakeup()
        self._reading, self._since = 0, 0.0
        self._stopping = False
        for number in range(self._readers):
            thread = threading.Thread(target=self._run, name=f"moex-read-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, plan: Plan) -> None:
        """Cancel dropped prefetches that have not begun, and queue the plan's loads."""
        if plan.transfers or plan.dropped:
            refuse_other_streams(self.slots.records, self.name)
            with self._changed.lock:
                self._queue.take(plan)
                self._changed.notify_all()

    def wait(self, slot: int) -> bool:
        """Wait for the read into the slot; a prefetch in flight becomes a demand.

        While it waits, the calling thread reads pieces too, as long as demand is queued.

        Raises:
            RuntimeError: the record could not be read, or is not what was packed.
        """
        read = self._queue.last.get(slot)
        return read is not None and self._until(read, lambda: read.done, lambda: False)

    def wait_part(self, slot: int, size: int) -> bool:
        """Wait for the first `size` bytes; for the whole record if its checksum is still unchecked.

        The calling thread reads nothing beyond `size`: it would still read when that has arrived.

        Raises:
            RuntimeError: the record could not be read.
        """
        read = self._queue.last.get(slot)
        if read is None or read.record is None or not self._queue.whole.checked(read.expert):
            return self.wait(slot)
        return self._until(
            read, lambda: read.done or read.arrived >= size, lambda: read.begun >= size
        )

    def _until(self, read: Read, over: Callable[[], bool], enough: Callable[[], bool]) -> bool:
        """Wait for a read, fetching demanded pieces until enough have begun; whether it waited."""
        late = not over()
        if late:
            started = perf_counter()
            with self._changed.lock:
                self._queue.promote(read)
            while not over():
                piece = self._claim(over, self._queue.demand, enough=enough)
                if piece is not None:
                    self._fetch(*piece)
            self.stalled(read.expert, started, perf_counter() - started)
        read.raise_error()
        return late

    def stats(self) -> LinkStats:
        """Bytes read, and seconds in which any thread was reading."""
        with self._changed.lock:
            running = perf_counter() - self._since if self._reading else 0.0
            return LinkStats(self._bytes, self._busy + running, self.stall_s)

    def restart(self) -> None:
        """Wait for the pieces in flight, and start again with new threads."""
        self._stop()
        self._start()

    def close(self) -> None:
        """Wait for the pieces in flight, and stop the threads."""
        self._stop()
        self._queue.close()

    def _stop(self) -> None:
        self._stopping = True
        with self._changed.lock:
            self._changed.notify_all()
        join(self._threads, self.name)
        self._threads.clear()

    def _run(self) -> None:
        queues = self._queue.demand, self._queue.speculation
        while (piece := self._claim(lambda: self._stopping, *queues)) is not None:
            self._fetch(*piece)

    def _claim(
        self,
        over: Callable[[], bool],
        *queues: deque[Read],
        enough: Callable[[], bool] = lambda: False,
    ) -> tuple[Read, int, int] | None:
        """Wait for a piece to read, from the first queue with one; None once `over()` is true."""
        while True:
            with self._changed.lock:
                if over():
                    return None
                for queue in () if enough() else queues:
                    if (read := self._queue.next(queue)) is not None:
                        return self._begin(queue, read)
                change = self._changed.waiter()
            change.acquire()

    def _begin(self, queue: deque[Read], read: Read) -> tuple[Read, int, int]:
        begin = read.begun
        size = read.size if read.record is None else min(self._piece, read.size - begin)
        read.under_way.add(begin)
        read.begun += size
        if read.begun == read.size:
            queue.remove(read)
        if not self._reading:
            self._since = perf_counter()
        self._reading += 1
        return read, begin, size

    def _fetch(self, read: Read, begin: int, size: int) -> None:
        """Read a piece; an interruption is recorded, so that waiting reads can go on."""
        started = perf_counter()
        try:
            if read.record is None:
                read.load()
            else:
                part = read.record[begin : begin + size]
                self._queue.whole.read_part(read.expert, begin, part)
        except Exception as error:
            read.error = error
        except BaseException:
            read.error = RuntimeError(f"reading {read.expert} was interrupted")
            raise
        finally:
            self._landed(read, begin, size, started)

    def _landed(self, read: Read, begin: int, size: int, started: float) -> None:
        """Count a finished piece; after the last one, check the record against its checksum."""
        with self._changed.lock:
            read.missing -= size
            last = not read.missing
        if last and read.error is None and read.record is not None:
            try:
                self._queue.whole.check(read.expert, read.record)
            except Exception as error:
                read.error = error
        with self._changed.lock:
            now = perf_counter()
            self._bytes += size if read.error is None else 0
            self._reading -= 1
            if not self._reading:
                self._busy += now - self._since
            if self.log is not None:
                by = threading.current_thread().name
                self.log.append(("move", read.expert, started, now, size, by))
                if last:
                    self.log.append(("load", read.expert, read.queued, now, read.speculative))
            read.under_way.discard(begin)
            read.arrived = min(read.under_way, default=read.begun)
            read.done = last
            self._changed.notify_all()
