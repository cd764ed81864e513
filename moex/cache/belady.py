"""Belady's optimal policy, which needs a recording of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class Belady(CachePolicy):
    """Evict the expert whose next use is farthest (Belady 1966).

    `bypass=False`: every loaded expert enters, members of the running visit are kept: the optimum
    under forced admission. `bypass=True`: an expert just used may be evicted at once, which gives
    the fewest loads of any policy without prefetching (for visits that fit the cache).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"future"})

    bypass: bool = False

    def reset(self, scope: Scope) -> None:
        """Take the recorded future."""
        assert scope.future is not None
        self.next_use = scope.future.next_use
        self.worth: dict[Expert, float] = {}

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Look up when the expert is used next; the value holds until then."""
        self.worth[expert] = -self.next_use(expert, now.clock)

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the candidate of farthest next use."""
        return min(candidates, key=self.worth.__getitem__)
