"""SIEVE: one queue, and a hand that moves over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class SIEVE(CachePolicy):
    """Evict the first expert under the hand that was not used since the hand last passed.

    Zhang et al. 2024, NSDI. The queue is in order of entry and never reordered; the hand moves
    from the oldest towards the newest, wraps around, and stays where it evicted. It passes over
    members of the running visit without clearing their marks.
    """

    def reset(self, scope: Scope) -> None:
        """Start with an empty queue and the hand at its old end."""
        self.queue: list[Expert] = []
        self.used: set[Expert] = set()
        self.hand = 0

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Mark a resident as used; the use at which it enters does not count."""
        if hit:
            self.used.add(expert)

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Append the expert at the new end of the queue."""
        self.queue.append(expert)

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Move the hand to the first unmarked candidate, unmarking those it passes."""
        free, used = set(candidates), self.used
        while True:
            expert = self.queue[self.hand]
            if expert in free:
                if expert not in used:
                    return expert
                used.remove(expert)
            self.hand = (self.hand + 1) % len(self.queue)

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Remove the expert under the hand, which then points to the next newer one."""
        del self.queue[self.hand]
        self.hand %= len(self.queue) or 1
