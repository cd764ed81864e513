"""Most recently used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment
    from moex.types import Scope


@dataclass
class MRU(ArrayPolicy):
    """Evict the expert used last before this visit: right for cyclic scans larger than the pool.

    Chou & DeWitt 1985, VLDB. Members of the running visit are kept, so the victim is a member of
    the visit before: the one of highest index.
    """

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return the order of last uses."""
        return {"last": [0] * scope.size}

    @staticmethod
    def used(state: Any, expert: int, now: Moment, hit: bool) -> None:
        """Note the use; experts of one visit are ordered by index."""
        state.last[expert] = now.clock * len(state.last) + expert

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> int:
        """Return a score that is lower the later the last use was."""
        return -state.last[expert]
