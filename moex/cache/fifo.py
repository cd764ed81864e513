"""First in, first out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment
    from moex.types import Scope


@dataclass
class FIFO(ArrayPolicy):
    """Evict the expert that entered first, however often it was used since.

    Experts of one visit enter in top-k order.
    """

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return the order of entry, and how many have entered."""
        return {"order": [0] * scope.size, "count": [0]}

    @staticmethod
    def entered(state: Any, expert: int, now: Moment) -> None:
        """Put the expert last."""
        state.count[0] += 1
        state.order[expert] = state.count[0]

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> int:
        """Return the order of entry."""
        return state.order[expert]
