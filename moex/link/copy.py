"""A synchronous copy by the computing thread."""

from __future__ import annotations

from threading import current_thread
from time import perf_counter
from typing import TYPE_CHECKING

from moex.link.base import Link, LinkStats

if TYPE_CHECKING:
    from moex.store.base import ExpertStore
    from moex.store.slots import Slots
    from moex.types import Load, Plan


class CopyLink(Link):
    """Copies inside `submit`: the simplest correct link.

    The computing thread copies, so all copy time is stall, that of prefetches too: no overlap. A
    demanded load is always late.
    """

    name = "copy"
    rank = 1
    overlaps = False

    def __init__(self, store: ExpertStore, slots: Slots) -> None:
        self.store, self.slots = store, slots
        self._bytes, self._busy = 0, 0.0
        self._late: set[int] = set()

    def submit(self, plan: Plan) -> None:
        """Copy every load, demand or prefetch, in order."""
        for load in plan.transfers:
            started = perf_counter()
            self.slots.bring(self.store, load)()
            took = perf_counter() - started
            self._busy += took
            self._bytes += self.store.geometry.size(load.rows, load.span)
            if not load.speculative:
                self._late.add(load.slot)
            if self.log is not None:
                self._log_load(load, started, took)
            self.stalled(load.expert, started, took)

    def _log_load(self, load: Load, started: float, took: float) -> None:
        assert self.log is not None
        ended, by = started + took, current_thread().name
        size = self.store.geometry.size(load.rows, load.span)
        self.log.append(("move", load.expert, started, ended, size, by))
        self.log.append(("load", load.expert, started, ended, load.speculative))

    def wait(self, slot: int) -> bool:
        """Return whether the slot's load was demanded: nothing was computed during its copy."""
        late = slot in self._late
        self._late.discard(slot)
        return late

    def restart(self) -> None:
        """Forget late loads: no copy is in flight after `submit` has returned."""
        self._late.clear()

    def stats(self) -> LinkStats:
        """Totals since the link was created."""
        return LinkStats(self._bytes, self._busy, self.stall_s)
