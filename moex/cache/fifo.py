"""First in, first out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import ScoredPolicy

if TYPE_CHECKING:
    from moex.types import Expert, Now, Scope


@dataclass
class FIFO(ScoredPolicy):
    """Evict the expert that entered first, however often it was used since.

    Experts of one visit enter in top-k order, the best first.
    """

    def reset(self, scope: Scope) -> None:
        """Forget who entered when."""
        self.entered: dict[Expert, int] = {}
        self.entries = 0

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Note the order of entry."""
        self.entries += 1
        self.entered[expert] = self.entries

    def score(self, expert: Expert, now: Now) -> int:
        """Worth: the order of entry."""
        return self.entered[expert]
