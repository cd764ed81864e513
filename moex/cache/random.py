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
    """Evict an expert chosen uniformly at random with the run's seed: the baseline of policies."""

    def reset(self, scope: Scope) -> None:
        """Start the pool's own random stream."""
        self.draws = random.Random(scope.seed)

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return a candidate chosen uniformly at random."""
        return candidates[self.draws.randrange(len(candidates))]
