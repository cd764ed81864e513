"""Least hit density."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Access, Expert, Now, Scope

AGES = 256
KINDS = 10  # newcomers, then experts by the binary logarithm of their last reuse distance


@dataclass
class LHD(CachePolicy):
    """Evict the expert with the fewest expected hits per slot and remaining time in it.

    Beckmann, Chen & Cidon 2018, NSDI. Ages at hits and at evictions are counted for each kind of
    expert (its last reuse distance, in powers of two) and scaled by `fade` every `period` passes,
    when densities are computed anew. Ages are passes since the last use, the last bin is open;
    until there is evidence density falls with age, which is LRU. All candidates are compared (the
    paper samples 32), and all experts are of one size.

    Raises:
        ValueError: a parameter outside its range.
    """

    period: int = 64
    fade: float = 0.9

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"cache.period={self.period}: expected passes from 1, e.g. 64")
        if not 0 < self.fade <= 1:
            raise ValueError(f"cache.fade={self.fade}: expected a factor in (0, 1], e.g. 0.9")

    def reset(self, scope: Scope) -> None:
        """Discard all counts."""
        self.layers = len(scope.layers)
        self.visits = 0
        self.hits = [[0.0] * AGES for _ in range(KINDS)]
        self.evictions = [[0.0] * AGES for _ in range(KINDS)]
        self.density = [[1 / (age + 1) for age in range(AGES)] for _ in range(KINDS)]
        # Of every expert: when it was last used, its kind, and that kind's densities.
        self.known: dict[Expert, tuple[int, int, list[float]]] = {}

    def on_visit(self, access: Access) -> None:
        """Advance time, and compute the densities at the end of every period."""
        self.visits += 1
        if self.visits % (self.period * self.layers) == 0:
            for kind in range(KINDS):
                self._work_out(kind)

    def _work_out(self, kind: int) -> None:
        """Density of an age: later hits, divided by the time until those hits and evictions."""
        hits, evictions, density = self.hits[kind], self.evictions[kind], self.density[kind]
        coming = ends = held = 0.0
        for age in range(AGES - 1, -1, -1):
            hit, evicted = hits[age], evictions[age]
            if hit or evicted:
                coming += hit
                ends += hit + evicted
                hits[age], evictions[age] = hit * self.fade, evicted * self.fade
            if ends:
                held += ends
                density[age] = coming / held

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Count a hit at its age, and note the expert's new kind."""
        kind = 0
        if hit:
            last, before, _ = self.known[expert]
            age = min((self.visits - last) // self.layers, AGES - 1)
            self.hits[before][age] += 1
            kind = min(1 + age.bit_length(), KINDS - 1)
        self.known[expert] = self.visits, kind, self.density[kind]

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Count an eviction at its age."""
        last, kind, _ = self.known[expert]
        self.evictions[kind][min((self.visits - last) // self.layers, AGES - 1)] += 1

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the first of the lowest hit density, which is its kind's at its age."""
        known, visits, layers = self.known, self.visits, self.layers
        lowest, least = candidates[0], inf
        for expert in candidates:
            last, _, density = known[expert]
            age = (visits - last) // layers
            worth = density[age if age < AGES else -1]
            if worth < least:
                lowest, least = expert, worth
        return lowest
