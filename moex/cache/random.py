"""Random replacement."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class Random(CachePolicy):
    """Evict any expert, drawn with the run's seed: what a policy must beat."""

    def reset(self, scope: Scope) -> None:
        """Start the pool's own stream of draws."""
        self.draws = random.Random(scope.seed)

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return a uniformly drawn candidate."""
        return candidates[self.draws.randrange(len(candidates))]
