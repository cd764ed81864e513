"""Least frequently used, with ageing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Access, Expert, Now, Scope


@dataclass
class LFU(CachePolicy):
    """Evict the expert used least often.

    Papers rarely say which LFU they ran: `perfect=True` keeps counts through evictions,
    `perfect=False` forgets them (in-cache LFU). `decay` below 1 multiplies all counts by it at
    every visit of the pool, so that old uses count less; 1 is the textbook policy.

    Raises:
        ValueError: `decay` outside (0, 1].
    """

    decay: float = 1.0
    perfect: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ValueError(f"cache.decay={self.decay}: expected a factor in (0, 1], e.g. 0.99")

    def reset(self, scope: Scope) -> None:
        """Discard all counts."""
        self.counts: dict[tuple[int, int], float] = defaultdict(float)  # an Expert is such a pair
        self.one = 1.0

    def on_visit(self, access: Access) -> None:
        """Age the counts, and count the uses of the whole visit.

        Instead of shrinking old counts, the weight of a new use grows: the order is the same.
        """
        one = self.one = self.one / self.decay
        if one > 1e200:
            self.counts = defaultdict(float, {e: c / one for e, c in self.counts.items()})
            one = self.one = 1.0
        counts, layer = self.counts, access.layer
        for index in access.experts:
            counts[layer, index] += one

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Restart the count with this use, unless counts are perfect."""
        if not self.perfect:
            self.counts[expert] = self.one

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the candidate of lowest aged count, the least recently used of equals."""
        return min(candidates, key=self.counts.__getitem__)
