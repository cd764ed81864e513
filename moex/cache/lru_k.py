"""Least recently used, by the K-th last use."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class LRUK(CachePolicy):
    """Evict the expert whose K-th last use is oldest (O'Neil, O'Neil & Weikum 1993, SIGMOD).

    The K-th last use separates popular experts from those used once. Experts with fewer than K uses
    are evicted first, least recently used first. Histories of absent experts are kept for ever (the
    paper drops them after a while to save memory), and the correlated reference period is one
    visit, in which an expert is demanded once.

    Raises:
        ValueError: `k` below 1.
    """

    k: int = 2

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"cache.k={self.k}: expected a number of uses from 1, e.g. cache.k=2")

    def reset(self, scope: Scope) -> None:
        """Discard all uses."""
        self.uses: dict[Expert, deque[int]] = {}
        self.kth: dict[Expert, int] = {}

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Note the use; the oldest of the last K drops out."""
        uses = self.uses.get(expert)
        if uses is None:
            uses = self.uses[expert] = deque(maxlen=self.k)
        uses.append(now.clock)
        self.kth[expert] = uses[0] if len(uses) == self.k else -1

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the candidate of oldest K-th last use."""
        return min(candidates, key=self.kth.__getitem__)
