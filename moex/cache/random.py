"""Random replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy
from moex.cache.draws import draw

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment
    from moex.types import Scope


@dataclass
class Random(ArrayPolicy):
    """Evict an expert chosen uniformly at random with the run's seed: the baseline of policies."""

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return the pool's seed, and a draw that stands for the visit."""
        return {"seed": [draw(scope.seed)], "visit": [0]}

    @staticmethod
    def visited(state: Any, now: Moment) -> None:
        """Draw anew in every visit."""
        state.visit[0] = draw(state.seed[0] ^ now.clock)

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> int:
        """Return a random number, a function of seed, clock and expert."""
        return draw(state.visit[0] ^ expert)
