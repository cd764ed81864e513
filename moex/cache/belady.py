"""Belady's optimal policy, which needs a recording of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment


@dataclass
class Belady(ArrayPolicy):
    """Evict the expert whose next use is farthest (Belady 1966).

    `bypass=False`: every loaded expert enters, members of the running visit are kept: the optimum
    under forced admission. `bypass=True`: an expert just used may be evicted at once, which gives
    the fewest loads of any policy without prefetching (for visits that fit the cache).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"future"})

    bypass: bool = False

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> float:
        """Return a score that is lower the farther the next use is."""
        return -state.next_use[expert]
