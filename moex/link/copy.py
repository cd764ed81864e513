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

    The computing thread copies, so all copy time is stall, that of prefetches too: no overlap.
    """

    name = "copy"
    rank = 1

    def __init__(self, store: ExpertStore, slots: Slots) -> None:
        self.store, self.slots = store, slots
        self._bytes, self._busy, self._speculative_s = 0, 0.0, 0.0
        self._took: dict[int, float] = {}

    def submit(self, plan: Plan) -> None:
        """Copy every load, demand or prefetch, in order."""
        for load in plan.transfers:
            started = perf_counter()
            self.slots.bring(self.store, load)()
            took = perf_counter() - started
            self._busy += took
            self._bytes += self.store.geometry.size(load.rows)
            if load.speculative:
                self._speculative_s += took
            else:
                self._took[load.slot] = took
            if self.log is not None:
                self._log_load(load, started, took)

    def _log_load(self, load: Load, started: float, took: float) -> None:
        assert self.log is not None
        ended, by = started + took, current_thread().name
        size = self.store.geometry.size(load.rows)
        self.log.append(("move", load.expert, started, ended, size, by))
        self.log.append(("load", load.expert, started, ended, load.speculative))
        self.log.append(("stall", load.expert, started, took))

    def wait(self, slot: int) -> float:
        """Return the seconds that the copy took, during which nothing was computed."""
        return self._took.pop(slot, 0.0)

    def collect_stall(self) -> float:
        """Return the seconds spent copying prefetches since the last call."""
        seconds, self._speculative_s = self._speculative_s, 0.0
        return seconds

    def restart(self) -> None:
        """Clear pending wait times: no copy is in flight after `submit` has returned."""
        self._took.clear()

    def stats(self) -> LinkStats:
        """Bytes and seconds since the link was created."""
        return LinkStats(self._bytes, self._busy)
