"""The read queues of the links that read files: which read is next."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.store.disk import DiskStore
    from moex.store.slots import Slots
    from moex.types import Load, Plan


class Read:
    """One load: how many of its bytes have been begun, and how many have not arrived yet.

    It is read into `record` piece by piece, or in one call of `load`. `before` is an older read
    into the same slot, which has to end first.
    """

    def __init__(
        self, wanted: Load, size: int, record: Any = None, load: Callable[[], None] | Any = None
    ) -> None:
        self.expert, self.slot = wanted.expert, wanted.slot
        self.speculative = wanted.speculative
        self.record, self.load, self.size = record, load, size
        self.begun, self.missing, self.done, self.queued = 0, size, False, perf_counter()
        self.under_way: set[int] = set()
        """Offsets of the pieces in flight."""
        self.arrived = 0
        """Bytes that have arrived without a gap, from the beginning on."""
        self.before: Read | None = None
        self.error: Exception | None = None

    def raise_error(self) -> None:
        """Raise the error of the read, if it failed.

        Raises:
            RuntimeError: the record could not be read, or is not what was packed.
        """
        if self.error is not None:
            raise RuntimeError(str(self.error)) from self.error


class ReadQueue:
    """Demanded reads and prefetches, in order; dropped prefetches that have not begun are removed.

    Nothing here waits or locks: the link around it does.
    """

    def __init__(self, store: DiskStore, slots: Slots) -> None:
        self._store, self._slots = store, slots
        self.whole: Any = slots.whole(store)
        """The store whose records equal a slot's bytes; None: experts are rearranged on the way."""
        # Created once: making tensors would take a good part of the short time between reads.
        self._records = list(slots.records) if self.whole is not None else []
        self.last: dict[int, Read] = {}
        """The latest read into every slot."""
        self.demand: deque[Read] = deque()
        self.speculation: deque[Read] = deque()

    def take(self, plan: Plan) -> None:
        """Remove stale prefetches that have not begun, and queue the plan's loads."""
        if self.speculation:
            for slot in plan.stale:
                self._remove(slot)
        for load in plan.transfers:
            size = self._store.geometry.size(load.rows, load.span)
            if self._records and load.rows is None:
                read = Read(load, size, record=self._records[load.slot])
            else:
                read = Read(load, size, load=self._slots.bring(self._store, load))
            before = self.last.get(load.slot)
            if before is not None and not before.done:
                read.before = before
                if not load.speculative:
                    self.promote(before)
            self.last[load.slot] = read
            (self.speculation if load.speculative else self.demand).append(read)

    def close(self) -> None:
        """Drop all reads: they hold references to slots and records."""
        for kept in (self.last, self.demand, self.speculation, self._records):
            kept.clear()

    def promote(self, read: Read) -> None:
        """Move a prefetch that is demanded now to the demand queue."""
        if read in self.speculation:
            self.speculation.remove(read)
            self.demand.append(read)

    def _remove(self, slot: int) -> None:
        """Remove the slot's prefetch from the queue, unless it has begun."""
        read = self.last.get(slot)
        if read is not None and read in self.speculation and not read.begun:
            self.speculation.remove(read)
            del self.last[slot]
            if read.before is not None:
                self.last[slot] = read.before

    @staticmethod
    def next(queue: deque[Read]) -> Read | None:
        """The first read of a queue that waits for no older read of its slot, or None."""
        for read in queue:
            if read.before is None or read.before.done:
                read.before = None
                return read
        return None
