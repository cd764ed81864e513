"""Least stale: experts that this forward pass has not touched leave first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import ScoredPolicy

if TYPE_CHECKING:
    from moex.types import Access, Expert, Now, Scope


@dataclass
class LeastStale(ScoredPolicy):
    """Evict stale experts first, among them those of the earliest layer (SpecMD, arXiv 2602.03921).

    An expert is stale if the running forward pass has not touched it. Stale experts of early layers
    were passed over, and their layer comes again last. Only then the pass's own experts go, again
    earliest layer first. The paper leaves the order among equals open: here it is least recent use.
    It is made for one global pool with prefetching; with a pool per layer it is LRU. (In arXiv
    2608.07911 layers do not matter, so that it is LRU wherever nothing is prefetched.)
    """

    def reset(self, scope: Scope) -> None:
        """Begin before the first pass."""
        self.passes = 0
        self.layer = -1
        self.touched: dict[Expert, int] = {}

    def on_visit(self, access: Access) -> None:
        """A layer that does not lie behind the last one begins a new pass."""
        self.passes += access.layer <= self.layer
        self.layer = access.layer

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Tag the expert with the running pass."""
        self.touched[expert] = self.passes

    def score(self, expert: Expert, now: Now) -> tuple[bool, int]:
        """Worth: touched in this pass before stale, late layers before early ones."""
        return self.touched[expert] == self.passes, expert.layer
