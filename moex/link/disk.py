"""Reads experts from files into their places, with threads of its own."""

from __future__ import annotations

import threading
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from moex.link.base import Link, LinkStats
from moex.store.layout import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from moex.store.disk import DiskStore
    from moex.store.slots import Slots
    from moex.types import Load, Plan


class _Read:
    """One load: how much of it has been begun, and how much is not there yet.

    Without a record it is brought in one piece, by `bring`.
    """

    __slots__ = (
        "before",
        "begun",
        "bring",
        "done",
        "error",
        "expert",
        "missing",
        "queued",
        "record",
        "size",
        "speculative",
    )

    def __init__(
        self,
        load: Load,
        record: torch.Tensor | None,
        before: _Read | None,
        bring: Callable[[], None],
        size: int,
    ) -> None:
        self.expert, self.record, self.before, self.bring = load.expert, record, before, bring
        self.speculative, self.queued = load.speculative, perf_counter()
        self.begun, self.missing, self.done, self.size = 0, size, False, size
        self.error: Exception | None = None


class DiskLink(Link):
    """Reader threads that take pieces of loads, demanded ones first.

    Several threads share the pieces of one expert, so a single demanded expert gets all of the
    disk; so does the computing thread while it waits. A read that has begun is always finished;
    until then, what is loaded into the same place next stands behind it.

    Args:
        store: where records come from.
        slots: the places that they are read into.
        threads: that read; they and the computing threads share the cores.
        chunk_bytes: a piece; demand overtakes speculation at its end.
    """

    name = "disk"

    def __init__(
        self, store: DiskStore, slots: Slots, threads: int = 1, chunk_bytes: int = 4 << 20
    ) -> None:
        if threads < 1:
            raise ValueError(f"memory.reader_threads={threads}: expected at least 1")
        self.store, self.slots = store, slots
        self._piece = max(chunk_bytes // PAGE, 1) * PAGE
        self._last: dict[int, _Read] = {}
        self._demand: deque[_Read] = deque()
        self._speculation: deque[_Read] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._reading, self._since = 0, 0.0
        self._bytes, self._busy = 0, 0.0
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"moex-read-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, plan: Plan) -> None:
        """Take back dropped guesses that have not begun, and queue the plan's loads."""
        transfers = plan.transfers
        if not transfers and not plan.dropped:
            return
        geometry, whole = self.store.geometry, self.store.layout.name == "planes"
        with self._changed:
            for gone in plan.dropped:
                self._take_back(gone.slot)
            for load in plan.loads:
                self._take_back(load.slot)
            for load in transfers:
                before = self._last.get(load.slot)
                if before is not None and before.done:
                    before = None
                if before is not None and not load.speculative:
                    self._promote(before)
                record = self.slots.records[load.slot] if whole else None
                bring, size = self.slots.bring(self.store, load), geometry.size(load.rows)
                read = _Read(load, record, before, bring, size)
                self._last[load.slot] = read
                (self._speculation if load.speculative else self._demand).append(read)
            self._changed.notify(len(self._threads))

    def wait(self, place: int) -> float:
        """Return when the read into the place is over; a late guess is demanded from now on.

        A thread that waits computes nothing: it reads, too, as long as there is demand to begin.

        Raises:
            RuntimeError: the record could not be read, or is not what was packed.
        """
        read, stall = self._last.get(place), 0.0
        if read is None:
            return stall
        if not read.done:
            started = perf_counter()
            with self._changed:
                self._promote(read)
            while not read.done:
                piece = self._claim(lambda: read.done, self._demand)
                if piece is not None:
                    self._fetch(*piece)
            stall = perf_counter() - started
            if self.log is not None:
                self.log.append(("stall", read.expert, started, stall))
        if read.error is not None:
            raise RuntimeError(str(read.error)) from read.error
        return stall

    def stats(self) -> LinkStats:
        """Bytes that were read, and seconds in which any thread was reading."""
        with self._changed:
            running = perf_counter() - self._since if self._reading else 0.0
            return LinkStats(self._bytes, self._busy + running)

    def close(self) -> None:
        """Let the pieces under way end, and stop the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _take_back(self, place: int) -> None:
        """Never read what nobody wants, unless it has begun."""
        read = self._last.get(place)
        if read is not None and read in self._speculation and not read.begun:
            self._speculation.remove(read)
            del self._last[place]
            if read.before is not None:
                self._last[place] = read.before

    def _promote(self, read: _Read) -> None:
        """Put a guess that is demanded now where demand is."""
        if read in self._speculation:
            self._speculation.remove(read)
            self._demand.append(read)

    def _run(self) -> None:
        queues = self._demand, self._speculation
        while (piece := self._claim(lambda: self._stopping, *queues)) is not None:
            self._fetch(*piece)

    def _claim(
        self, over: Callable[[], bool], *queues: deque[_Read]
    ) -> tuple[_Read, int, int] | None:
        """Wait until there is a piece to begin, first queue first, or until it is over (None)."""
        with self._changed:
            while not over():
                for queue in queues:
                    for read in queue:
                        if read.before is None or read.before.done:
                            return self._begin(queue, read)
                self._changed.wait()
        return None

    def _begin(self, queue: deque[_Read], read: _Read) -> tuple[_Read, int, int]:
        begin, read.before = read.begun, None
        size = read.size if read.record is None else min(self._piece, read.size - begin)
        read.begun += size
        if read.begun == read.size:
            queue.remove(read)
        if not self._reading:
            self._since = perf_counter()
        self._reading += 1
        return read, begin, size

    def _fetch(self, read: _Read, begin: int, size: int) -> None:
        """Read a piece; also when that is interrupted, what stands behind it can go on."""
        started = perf_counter()
        try:
            if read.record is None:
                read.bring()
            else:
                self.store.read_part(read.expert, begin, read.record[begin : begin + size])
        except Exception as error:
            read.error = error
        except BaseException:
            read.error = RuntimeError(f"reading {read.expert} was interrupted")
            raise
        finally:
            self._landed(read, size, started)

    def _landed(self, read: _Read, size: int, started: float) -> None:
        """Book a piece; whoever brings the last one compares the record with its checksum."""
        with self._changed:
            read.missing -= size
            last = not read.missing
        if last and read.error is None and read.record is not None:
            try:
                self.store.check(read.expert, read.record)
            except Exception as error:
                read.error = error
        with self._changed:
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
            if last:
                read.done = True
                self._changed.notify_all()
