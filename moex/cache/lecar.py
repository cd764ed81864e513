"""Learns how much to rely on recency and on frequency."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class LeCaR(CachePolicy):
    """Choose at random between the LRU and the LFU victim, with weights learnt from regret.

    Vietri et al. 2018, HotStorage. A victim is remembered by the policy that chose it, in a ghost
    list as long as the pool. A demand for a ghost makes the other policy's weight grow by exp(rate
    x discount^age), age being the uses since the eviction; where both choose the same victim
    neither weight changes. The discount is `forget` ** (1 / capacity). Counts are kept while the
    expert is resident or a ghost.

    Raises:
        ValueError: a parameter outside its range.
    """

    rate: float = 0.45
    forget: float = 0.005

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 100:  # regret is its exponential
            raise ValueError(f"cache.rate={self.rate}: expected a rate in (0, 100], e.g. 0.45")
        if not 0 < self.forget < 1:
            raise ValueError(f"cache.forget={self.forget}: expected a factor in (0, 1): 0.005")

    def reset(self, scope: Scope) -> None:
        """Start with equal weights."""
        self.draws = random.Random(scope.seed)
        self.capacity = scope.capacity
        self.discount = self.forget ** (1 / scope.capacity)
        self.trust = 0.5  # in recency; the rest is trust in frequency
        self.uses = 0
        self.counts: Counter[Expert] = Counter()
        self.recency_ghosts: dict[Expert, int] = {}
        self.frequency_ghosts: dict[Expert, int] = {}
        self.blamed: dict[Expert, int] | None = None

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Count the use, and shift weight if the expert is a ghost."""
        self.uses += 1
        self.counts[expert] += 1
        if hit:
            return
        recency, frequency = self.trust, 1 - self.trust
        if expert in self.recency_ghosts:
            frequency *= self._regret(self.recency_ghosts.pop(expert))
        elif expert in self.frequency_ghosts:
            recency *= self._regret(self.frequency_ghosts.pop(expert))
        # Trust stays inside the open interval, as in the authors' code, so that it can recover.
        self.trust = min(max(recency / (recency + frequency), 0.01), 0.99)

    def _regret(self, left: int) -> float:
        return exp(self.rate * self.discount ** (self.uses - left))

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the victim of the policy chosen at random by weight."""
        oldest, rarest = candidates[0], min(candidates, key=self.counts.__getitem__)
        trusts_recency = self.draws.random() < self.trust
        self.blamed = self.recency_ghosts if trusts_recency else self.frequency_ghosts
        if oldest == rarest:
            self.blamed = None
        return oldest if trusts_recency else rarest

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Add the victim to the ghost list of the policy that chose it."""
        if self.blamed is None:
            del self.counts[expert]
            return
        self.blamed[expert] = self.uses
        if len(self.blamed) > self.capacity:
            forgotten = next(iter(self.blamed))
            del self.blamed[forgotten], self.counts[forgotten]
