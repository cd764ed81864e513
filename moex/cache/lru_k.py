"""Least recently used, by the K-th last use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment
    from moex.types import Scope

MOST = 1024
"""Uses of which the times are kept."""


@dataclass
class LRUK(ArrayPolicy):
    """Evict the expert whose K-th last use is oldest (O'Neil, O'Neil & Weikum 1993, SIGMOD).

    The K-th last use separates popular experts from those used once. Experts with fewer than K uses
    are evicted first, least recently used first. Histories of absent experts are kept for ever (the
    paper drops them after a while to save memory), and the correlated reference period is one
    visit, in which an expert is demanded once.

    Raises:
        ValueError: `k` outside 1 to 1024.
    """

    k: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MOST:
            raise ValueError(
                f"cache.k={self.k}: expected a number of uses from 1 to {MOST}, e.g. cache.k=2"
            )

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return no uses; each expert has a ring of K."""
        return {"ring": [-1] * (self.k * scope.size), "count": [0] * scope.size, "k": [self.k]}

    @staticmethod
    def used(state: Any, expert: int, now: Moment, hit: bool) -> None:
        """Note the use; the oldest of the last K drops out."""
        k = state.k[0]
        state.ring[expert * k + state.count[expert] % k] = now.clock
        state.count[expert] += 1

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> int:
        """Return the K-th last use, -1 if there were fewer."""
        k = state.k[0]
        return state.ring[expert * k + state.count[expert] % k]
