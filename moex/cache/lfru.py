"""Least frequently and least recently used, as one ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment
    from moex.types import Scope


@dataclass
class LFRU(ArrayPolicy):
    """Evict the expert with the fewest uses per visit of age (tinyserve, vLLM, colibri).

    Age is the number of visits since the last use, so a hot expert survives a pause and a cold one
    is not kept for one recent use. The best causal policy in 12 of 13 workloads of arXiv
    2608.07911. Its sources do not say whether counts survive eviction; there they do, so
    `perfect=True` is the default and `perfect=False` forgets them.
    """

    perfect: bool = True

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return no uses."""
        return {"uses": [0] * scope.size, "last": [0] * scope.size, "perfect": [self.perfect]}

    @staticmethod
    def used(state: Any, expert: int, now: Moment, hit: bool) -> None:
        """Count the use and note when it was."""
        state.uses[expert] += 1
        state.last[expert] = now.clock

    @staticmethod
    def entered(state: Any, expert: int, now: Moment) -> None:
        """Restart the count with this use, unless counts are perfect."""
        if not state.perfect[0]:
            state.uses[expert] = 1

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> float:
        """Return uses per visit of age (candidates were not used in this visit: age > 0)."""
        return state.uses[expert] / (now.clock - state.last[expert])
