"""A link of another package."""

from __future__ import annotations

from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING

from moex.link.base import Link, LinkStats

if TYPE_CHECKING:
    from moex.store.base import ExpertStore
    from moex.store.slots import Slots
    from moex.types import Plan


class Counting(Link):
    """Copies at once, and counts the bytes of demand and of prefetches apart."""

    name = "counting"

    def __init__(self, store: ExpertStore, slots: Slots) -> None:
        self.store, self.slots = store, slots
        self.bytes: Counter[str] = Counter()
        self.seconds: Counter[int] = Counter()

    def submit(self, plan: Plan) -> None:
        """Copy every load."""
        for load in plan.transfers:
            started = perf_counter()
            self.slots.bring(self.store, load)()
            self.seconds[load.slot] += perf_counter() - started
            kind = "prefetch" if load.speculative else "demand"
            self.bytes[kind] += self.store.geometry.size(load.rows)

    def wait(self, slot: int) -> float:
        """Return the seconds that the copies into the slot took."""
        return self.seconds.pop(slot, 0.0)

    def restart(self) -> None:
        """Nothing is in flight."""
        self.seconds.clear()

    def stats(self) -> LinkStats:
        """All bytes; the seconds were stall."""
        return LinkStats(self.bytes.total(), 0.0)
