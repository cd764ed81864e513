"""Least stale: evict experts first that this forward pass has not used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment
    from moex.types import Scope


@dataclass
class LeastStale(ArrayPolicy):
    """Evict stale experts first, among them those of the earliest layer (SpecMD, arXiv 2602.03921).

    An expert is stale if the running forward pass has not used it. Stale experts of early layers
    were not needed in this pass, and their layer is visited again last. Only then the pass's own
    experts are evicted, earliest layer first. The paper does not order equals: here it is least
    recent use. It is made for a global pool with prefetching; with a pool per layer it is LRU. (In
    arXiv 2608.07911 layers do not matter, so that it is LRU wherever nothing is prefetched.)
    """

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return a state before the first pass."""
        return {
            "touched": [-1] * scope.size,
            "running": [0],
            "layer": [-1],
            "experts": [scope.experts],
        }

    @staticmethod
    def visited(state: Any, now: Moment) -> None:
        """Begin a new pass when the layer number does not increase."""
        if now.layer <= state.layer[0]:
            state.running[0] += 1
        state.layer[0] = now.layer

    @staticmethod
    def used(state: Any, expert: int, now: Moment, hit: bool) -> None:
        """Tag the expert with the running pass."""
        state.touched[expert] = state.running[0]

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> int:
        """Return a score: experts used in this pass over stale ones, then later layers."""
        layer = expert // state.experts[0]
        fresh = state.touched[expert] == state.running[0]
        return layer + len(state.touched) if fresh else layer
