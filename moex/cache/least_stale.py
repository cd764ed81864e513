"""Least stale: evict experts first that this forward pass has not used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import ScoredPolicy

if TYPE_CHECKING:
    from moex.types import Access, Expert, Now, Scope


@dataclass
class LeastStale(ScoredPolicy):
    """Evict stale experts first, among them those of the earliest layer (SpecMD, arXiv 2602.03921).

    An expert is stale if the running forward pass has not used it. Stale experts of early layers
    were not needed in this pass, and their layer is visited again last. Only then the pass's own
    experts are evicted, earliest layer first. The paper does not order equals: here it is least
    recent use. It is made for a global pool with prefetching; with a pool per layer it is LRU. (In
    arXiv 2608.07911 layers do not matter, so that it is LRU wherever nothing is prefetched.)
    """

    def reset(self, scope: Scope) -> None:
        """Begin before the first pass."""
        self.passes = 0
        self.layer = -1
        self.touched: dict[Expert, int] = {}

    def on_visit(self, access: Access) -> None:
        """Begin a new pass when the layer number does not increase."""
        self.passes += access.layer <= self.layer
        self.layer = access.layer

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Tag the expert with the running pass."""
        self.touched[expert] = self.passes

    def score(self, expert: Expert, now: Now) -> tuple[bool, int]:
        """Return a score: experts used in this pass over stale ones, then later layers."""
        return self.touched[expert] == self.passes, expert.layer
