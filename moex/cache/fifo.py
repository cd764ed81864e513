"""First in, first out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class FIFO(CachePolicy):
    """Evict the expert that entered first, however often it was used since.

    Experts of one visit enter in top-k order.
    """

    def reset(self, scope: Scope) -> None:
        """Empty the queue (dicts keep their order of entry)."""
        self.queue: dict[Expert, None] = {}

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Append the expert to the queue."""
        self.queue[expert] = None

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the candidate of earliest entry."""
        return next(expert for expert in self.queue if expert in candidates)

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Remove the expert from the queue."""
        del self.queue[expert]
