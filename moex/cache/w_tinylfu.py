"""A small recency window before a large cache that admits by frequency."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class WTinyLFU(CachePolicy):
    """Admit an expert to the main cache only if it was used more often than its victim.

    Einziger, Friedman & Manes 2017, ACM ToS. New experts enter an LRU window; when it overflows,
    its oldest competes with the oldest of the main cache (a segmented LRU) and the less used of the
    two is evicted. Counts are exact instead of sketched, since there are few experts, and all are
    halved after `sample` times the capacity uses. A visit may demand more new experts than the
    window holds: each of them competes when room is needed. `window` is a share of the
    capacity, one expert at least; `protected` is a share of the main cache.

    Raises:
        ValueError: a parameter outside its range.
    """

    window: float = 0.01
    protected: float = 0.8
    sample: int = 10

    def __post_init__(self) -> None:
        for name, share in (("window", self.window), ("protected", self.protected)):
            if not 0 < share < 1:
                raise ValueError(f"cache.{name}={share}: expected a share in (0, 1)")
        if self.sample < 1:
            raise ValueError(f"cache.sample={self.sample}: expected capacities from 1, e.g. 10")

    def reset(self, scope: Scope) -> None:
        """Empty the segments and discard all counts."""
        self.room = max(1, round(scope.capacity * self.window))
        self.shielded_room = int((scope.capacity - self.room) * self.protected)
        self.period = self.sample * scope.capacity
        self.counts: Counter[Expert] = Counter()
        self.uses = 0
        self.recent: dict[Expert, None] = {}
        self.probation: dict[Expert, None] = {}
        self.shielded: dict[Expert, None] = {}

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Count the use, refresh or promote a resident."""
        self.counts[expert] += 1
        self.uses += 1
        if self.uses == self.period:
            self.counts = Counter({e: c // 2 for e, c in self.counts.items() if c > 1})
            self.uses //= 2
        if expert in self.recent:
            self.recent[expert] = self.recent.pop(expert)
        elif expert in self.probation or expert in self.shielded:
            self.probation.pop(expert, None)
            self.shielded.pop(expert, None)
            self.shielded[expert] = None
            if len(self.shielded) > self.shielded_room:
                oldest = next(iter(self.shielded))
                self.probation[oldest] = self.shielded.pop(oldest)

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Enter the window; while the pool fills, its overflow passes to the main cache."""
        self.recent[expert] = None
        while len(self.recent) > self.room:
            oldest = next(iter(self.recent))
            self.probation[oldest] = self.recent.pop(oldest)

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the less used of the window's oldest and the main cache's oldest."""
        free = set(candidates)
        segments = (self.recent, self.probation, self.shielded)
        oldest = [next((e for e in segment if e in free), None) for segment in segments]
        recent, main = oldest[0], oldest[1] or oldest[2]
        if recent is None or main is None:
            return recent or main or candidates[0]
        if len(self.recent) < self.room or self.counts[recent] > self.counts[main]:
            return main
        return recent

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Remove the expert from its segment."""
        for segment in (self.recent, self.probation, self.shielded):
            segment.pop(expert, None)
