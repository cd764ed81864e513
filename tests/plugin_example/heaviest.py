"""A policy of another package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import ScoredPolicy

if TYPE_CHECKING:
    from moex.types import Access, Expert, Now, Scope


@dataclass
class Heaviest(ScoredPolicy):
    """Keep the experts with the largest router shares of late; `memory` of the past remains."""

    memory: float = 0.97

    def reset(self, scope: Scope) -> None:
        """Know nobody."""
        self.share: dict[tuple[int, int], float] = {}

    def on_visit(self, access: Access) -> None:
        """Average the whole router row, of experts not chosen, too."""
        for index, share in enumerate(access.scores):
            key = access.layer, index
            self.share[key] = self.memory * self.share.get(key, 0.0) + (1 - self.memory) * share

    def score(self, expert: Expert, now: Now) -> float:
        """The average share."""
        return self.share.get(tuple(expert), 0.0)
