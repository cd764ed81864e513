"""2Q: a queue of new experts, a list of its victims, and an LRU list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class TwoQ(CachePolicy):
    """Keep experts by recency only if demanded again after eviction (Johnson & Shasha 1994, VLDB).

    New experts pass through a first-in-first-out queue (A1in) whatever their uses; its victims are
    remembered for a while (A1out), and only a remembered expert that is demanded again enters the
    list that is evicted by recency (Am). `first` and `remembered` are shares of the capacity (Kin,
    Kout of the full version); each queue holds one at least.

    Raises:
        ValueError: a share outside its range.
    """

    first: float = 0.25
    remembered: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.first < 1:
            raise ValueError(f"cache.first={self.first}: expected a share in (0, 1), e.g. 0.25")
        if self.remembered <= 0:
            raise ValueError(f"cache.remembered={self.remembered}: expected a share over 0: 0.5")

    def reset(self, scope: Scope) -> None:
        """Empty the queues (dicts keep their order of entry)."""
        self.room = max(1, int(scope.capacity * self.first))
        self.memory = max(1, int(scope.capacity * self.remembered))
        self.newcomers: dict[Expert, None] = {}
        self.ghosts: dict[Expert, None] = {}
        self.proven: set[Expert] = set()

    def admit(self, expert: Expert, now: Now) -> bool:
        """Note whether the expert is a remembered one."""
        self.returns = expert in self.ghosts
        self.ghosts.pop(expert, None)
        return True

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the oldest new expert while those exceed their share, else the LRU list's oldest.

        Without a candidate of that kind, the other kind's.
        """
        newcomer = next((expert for expert in self.newcomers if expert in candidates), None)
        proven = next((expert for expert in candidates if expert in self.proven), None)
        if newcomer is not None and (proven is None or len(self.newcomers) > self.room):
            return newcomer
        assert proven is not None
        return proven

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Remember an evicted new expert; the oldest remembered one is forgotten."""
        if expert in self.proven:
            self.proven.remove(expert)
            return
        del self.newcomers[expert]
        self.ghosts[expert] = None
        if len(self.ghosts) > self.memory:
            del self.ghosts[next(iter(self.ghosts))]

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Add a remembered expert to the LRU list, any other to the queue."""
        if self.returns:
            self.proven.add(expert)
        else:
            self.newcomers[expert] = None
