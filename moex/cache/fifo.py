"""First in, first out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import ScoredPolicy

if TYPE_CHECKING:
    from moex.types import Expert, Now, Scope


@dataclass
class FIFO(ScoredPolicy):
    """Evict the expert that entered first, however often it was used since."""

    def reset(self, scope: Scope) -> None:
        """Forget who entered when."""
        self.entered: dict[Expert, int] = {}

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Note the visit that brought the expert."""
        self.entered[expert] = now.clock

    def score(self, expert: Expert, now: Now) -> tuple[int, Expert]:
        """Worth: the visit of entry; experts of one visit leave by index."""
        return self.entered[expert], expert
