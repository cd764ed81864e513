"""Three first-in-first-out queues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope

MOST = 3  # what a two-bit counter holds
PROMOTED = 2  # uses in the small queue that promote to the main one


@dataclass
class S3FIFO(CachePolicy):
    """Demote one-hit wonders quickly: small, main and ghost queues (Yang et al. 2023, SOSP).

    New experts enter the small queue, ghosts the main one. The oldest of the small queue is
    promoted after two uses or more, else evicted and remembered as a ghost; the oldest of the main
    queue is reinserted once for every use, up to three. Until the first eviction, new experts
    beyond the small queue's room enter main, as in the authors' libCacheSim (not in the paper).
    Members of the running visit are skipped and keep their position. `small` and `ghost` are shares
    of the capacity; the small queue has room for one expert at least (the paper's caches are never
    that small).

    Raises:
        ValueError: a share outside its range.
    """

    small: float = 0.1
    ghost: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.small < 1:
            raise ValueError(f"cache.small={self.small}: expected a share in (0, 1), e.g. 0.1")
        if self.ghost < 0:
            raise ValueError(f"cache.ghost={self.ghost}: expected a share from 0, e.g. 0.9")

    def reset(self, scope: Scope) -> None:
        """Empty the queues (dicts keep their order of entry)."""
        self.room = max(1, int(scope.capacity * self.small))
        self.memory = int(scope.capacity * self.ghost)
        self.newcomers: dict[Expert, int] = {}
        self.main: dict[Expert, int] = {}
        self.ghosts: dict[Expert, None] = {}
        self.filling = True

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Count the use of a resident."""
        queue = self.main if expert in self.main else self.newcomers
        if expert in queue:
            queue[expert] = min(queue[expert] + 1, MOST)

    def admit(self, expert: Expert, now: Now) -> bool:
        """Note whether a ghost returns."""
        self.returns = expert in self.ghosts
        self.ghosts.pop(expert, None)
        return True

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the next to evict, promoting and reinserting others on the way."""
        self.filling = False
        free = set(candidates)
        victim = self._from_newcomers(free) if len(self.newcomers) >= self.room else None
        return victim or self._from_main(free) or self._from_newcomers(free) or candidates[0]

    def _from_newcomers(self, free: set[Expert]) -> Expert | None:
        for expert in [expert for expert in self.newcomers if expert in free]:
            if self.newcomers[expert] < PROMOTED:
                return expert
            del self.newcomers[expert]
            self.main[expert] = 0
        return None

    def _from_main(self, free: set[Expert]) -> Expert | None:
        for _ in range(MOST + 1):
            for expert in [expert for expert in self.main if expert in free]:
                if not self.main[expert]:
                    return expert
                self.main[expert] = self.main.pop(expert) - 1
        return None

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Remember a victim of the small queue as a ghost; the oldest ghost is forgotten."""
        if self.main.pop(expert, None) is None:
            del self.newcomers[expert]
            self.ghosts[expert] = None
            if len(self.ghosts) > self.memory:
                del self.ghosts[next(iter(self.ghosts))]

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Append the expert: a ghost to the main queue, a new one to the small queue."""
        overflows = self.filling and len(self.newcomers) >= self.room
        (self.main if self.returns or overflows else self.newcomers)[expert] = 0
