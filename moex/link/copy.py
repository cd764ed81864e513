"""A plain copy, done at once by the computing thread."""

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
    """Copies when asked to: the simplest thing that is right.

    The computing thread copies, so all copying is stall, guesses too: nothing is hidden.
    """

    name = "copy"

    def __init__(self, store: ExpertStore, slots: Slots) -> None:
        self.store, self.slots = store, slots
        self._bytes, self._busy, self._speculative_s = 0, 0.0, 0.0
        self._took: dict[int, float] = {}

    def submit(self, plan: Plan) -> None:
        """Copy every load, demand or guess, in order."""
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
                self._write_down(load, started, took)

    def _write_down(self, load: Load, started: float, took: float) -> None:
        assert self.log is not None
        ended, by = started + took, current_thread().name
        size = self.store.geometry.size(load.rows)
        self.log.append(("move", load.expert, started, ended, size, by))
        self.log.append(("load", load.expert, started, ended, load.speculative))
        self.log.append(("stall", load.expert, started, took))

    def wait(self, slot: int) -> float:
        """Return how long the copy held the computing thread up."""
        return self._took.pop(slot, 0.0)

    def collect_stall(self) -> float:
        """Return how long guesses were copied since the last call; no place is waited for."""
        seconds, self._speculative_s = self._speculative_s, 0.0
        return seconds

    def restart(self) -> None:
        """Forget what was waited for: copies end before `submit` returns."""
        self._took.clear()

    def stats(self) -> LinkStats:
        """Bytes and seconds since the link was made."""
        return LinkStats(self._bytes, self._busy)
