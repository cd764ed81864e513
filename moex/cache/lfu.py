"""Least frequently used, with ageing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment
    from moex.types import Scope


@dataclass
class LFU(ArrayPolicy):
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

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return no uses, and the weight of a new one."""
        return {
            "uses": [0.0] * scope.size,
            "one": [1.0],
            "decay": [self.decay],
            "perfect": [self.perfect],
        }

    @staticmethod
    def visited(state: Any, now: Moment) -> None:
        """Age the counts: instead of shrinking them, the weight of a new use grows."""
        state.one[0] /= state.decay[0]
        if state.one[0] > 1e200:
            for expert in range(len(state.uses)):
                state.uses[expert] /= state.one[0]
            state.one[0] = 1.0

    @staticmethod
    def used(state: Any, expert: int, now: Moment, hit: bool) -> None:
        """Count the use."""
        state.uses[expert] += state.one[0]

    @staticmethod
    def entered(state: Any, expert: int, now: Moment) -> None:
        """Restart the count with this use, unless counts are perfect."""
        if not state.perfect[0]:
            state.uses[expert] = state.one[0]

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> float:
        """Return the aged count."""
        return state.uses[expert]
