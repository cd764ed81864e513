"""Which read comes next: the books of a link that reads files, whoever does the reading."""

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
    """One load: how much of it has been begun, and how much is not there yet.

    It comes into a record, or in one piece, by `bring`. `before` is an older read into the same
    place, which has to end first.
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
        "slot",
        "speculative",
        "there",
        "under_way",
    )

    def __init__(
        self, load: Load, size: int, record: Any = None, bring: Callable[[], None] | Any = None
    ) -> None:
        self.expert, self.slot, self.speculative = load.expert, load.slot, load.speculative
        self.record, self.bring, self.size = record, bring, size
        self.begun, self.missing, self.done, self.queued = 0, size, False, perf_counter()
        self.under_way: set[int] = set()
        """Where pieces begin that are being read."""
        self.there = 0
        """Its bytes from the beginning on that are there."""
        self.before: Read | None = None
        self.error: Exception | None = None

    def raise_error(self) -> None:
        """Raise what went wrong.

        Raises:
            RuntimeError: the record could not be read, or is not what was packed.
        """
        if self.error is not None:
            raise RuntimeError(str(self.error)) from self.error


class ReadQueue:
    """Demanded reads and guessed ones, in order; it takes back guesses that have not begun.

    Nothing here waits or locks: that is for the link around it.
    """

    def __init__(self, store: DiskStore, slots: Slots) -> None:
        self._store, self._slots = store, slots
        self.whole: Any = slots.whole(store)
        """Where whole experts come from straight into their places; None: they are laid out."""
        # Made once: the time between reads is short, and tensors take a good part of it.
        self._records = list(slots.records) if self.whole is not None else []
        self.last: dict[int, Read] = {}
        """The latest read into every place."""
        self.demand: deque[Read] = deque()
        self.speculation: deque[Read] = deque()

    def take(self, plan: Plan) -> None:
        """Take back dropped guesses that have not begun, and queue the plan's loads."""
        if self.speculation:
            for gone in plan.dropped:
                self._take_back(gone.slot)
            for load in plan.loads:
                self._take_back(load.slot)
        for load in plan.transfers:
            size = self._store.geometry.size(load.rows)
            if self._records and load.rows is None:
                read = Read(load, size, record=self._records[load.slot])
            else:
                read = Read(load, size, bring=self._slots.bring(self._store, load))
            before = self.last.get(load.slot)
            if before is not None and not before.done:
                read.before = before
                if not load.speculative:
                    self.promote(before)
            self.last[load.slot] = read
            (self.speculation if load.speculative else self.demand).append(read)

    def close(self) -> None:
        """Forget all reads: they hold places and records."""
        for kept in (self.last, self.demand, self.speculation, self._records):
            kept.clear()

    def promote(self, read: Read) -> None:
        """Put a guess that is demanded now where demand is."""
        if read in self.speculation:
            self.speculation.remove(read)
            self.demand.append(read)

    def _take_back(self, slot: int) -> None:
        """Never read what nobody wants, unless it has begun."""
        read = self.last.get(slot)
        if read is not None and read in self.speculation and not read.begun:
            self.speculation.remove(read)
            del self.last[slot]
            if read.before is not None:
                self.last[slot] = read.before

    @staticmethod
    def next(queue: deque[Read]) -> Read | None:
        """The first read of a queue that has nothing before it."""
        for read in queue:
            if read.before is None or read.before.done:
                read.before = None
                return read
        return None
