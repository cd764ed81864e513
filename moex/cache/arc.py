"""Adaptive replacement cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class ARC(CachePolicy):
    """Balance experts used once against experts used again (Megiddo & Modha 2003, FAST).

    `once` and `again` (T1, T2) split the residents, each with a ghost list of its evictions (B1,
    B2). A demand for a ghost means that its side was too small, and moves `target`, the share of
    `once`. The experts of a visit enter one after the other, each as one request of the paper.
    Members of the visit are never victims; if a side holds no other expert, the other side evicts.
    """

    def reset(self, scope: Scope) -> None:
        """Start with empty lists and a target of no slots for experts used once."""
        self.capacity = scope.capacity
        self.target = 0.0
        self.once: set[Expert] = set()
        self.again: set[Expert] = set()
        self.once_ghosts: dict[Expert, None] = {}
        self.again_ghosts: dict[Expert, None] = {}
        self.remembers = True

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Promote a resident that is used again; recency is the order of candidates."""
        if expert in self.once:
            self.once.remove(expert)
            self.again.add(expert)

    def admit(self, expert: Expert, now: Now) -> bool:
        """Adapt the target if the entering expert is a ghost."""
        once, again = len(self.once_ghosts), len(self.again_ghosts)
        self.from_once, self.from_again = expert in self.once_ghosts, expert in self.again_ghosts
        if self.from_once:
            self.target = min(self.target + max(again / once, 1.0), self.capacity)
            del self.once_ghosts[expert]
        elif self.from_again:
            self.target = max(self.target - max(once / again, 1.0), 0.0)
            del self.again_ghosts[expert]
        return True

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the least recently used of the side that is above its target."""
        size = len(self.once)
        if not (self.from_once or self.from_again):
            self._trim()
        above = size > self.target or (size == self.target and self.from_again)
        side = self.once if (size and above) or not self.again else self.again
        return next((expert for expert in candidates if expert in side), candidates[0])

    def _trim(self) -> None:
        """Keep the ghosts of `once` within a capacity, and all lists within two."""
        seen_once = len(self.once) + len(self.once_ghosts)
        if seen_once >= self.capacity:
            if self.once_ghosts:
                del self.once_ghosts[next(iter(self.once_ghosts))]
            else:  # all residents were used once: the victim does not become a ghost
                self.remembers = False
        elif self.again_ghosts and (
            seen_once + len(self.again) + len(self.again_ghosts) >= 2 * self.capacity
        ):
            del self.again_ghosts[next(iter(self.again_ghosts))]

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Add the victim to the ghost list of its side."""
        if expert in self.again:
            self.again.remove(expert)
            self.again_ghosts[expert] = None
        else:
            self.once.remove(expert)
            if self.remembers:
                self.once_ghosts[expert] = None
        self.remembers = True

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Add a former ghost to the experts used again, any other to those used once."""
        (self.again if self.from_once or self.from_again else self.once).add(expert)
