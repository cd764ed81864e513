"""The expert that the prefetcher expects latest is evicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moex.cache.base import ScoredPolicy

if TYPE_CHECKING:
    from moex.types import Expert, Now, Scope


@dataclass
class ByForecast(ScoredPolicy):
    """Belady's rule with the prefetcher's forecast in place of the future.

    First those that are not forecast, least recently used first; then those that are forecast
    latest. What is forecast of the running layer comes too late for its own visit: in a pool per
    layer a prefetcher must predict the next token's experts (`previous`), in a global pool two
    layers ahead or more (`gate` with depth=3). The prefetcher is never paused.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forecast"})

    def reset(self, scope: Scope) -> None:
        """Ask this pool's forecast from now on."""
        assert scope.future is not None
        self.next_use = scope.future.next_use

    def score(self, expert: Expert, now: Now) -> float:
        """Return a score that is lower the later the expert is expected."""
        return -self.next_use(expert, now.clock)
