"""Least hit density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import ScoredPolicy

if TYPE_CHECKING:
    from moex.types import Access, Expert, Now, Scope

AGES = 256
KINDS = 10  # newcomers, then experts by the binary logarithm of their last reuse distance


@dataclass
class LHD(ScoredPolicy):
    """Evict the expert with the fewest expected hits per place and time still held.

    Beckmann, Chen & Cidon 2018, NSDI. Ages at hits and at evictions are counted for each kind of
    expert (its last reuse distance, in powers of two) and faded by `fade` every `period` passes,
    when densities are worked out anew. Ages are passes since the last use, the last bin is open;
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
        """Forget all evidence."""
        self.layers = len(scope.layers)
        self.visits = 0
        self.last: dict[Expert, int] = {}
        self.kind: dict[Expert, int] = {}
        self.hits = [[0.0] * AGES for _ in range(KINDS)]
        self.evictions = [[0.0] * AGES for _ in range(KINDS)]
        self.density = [[1 / (age + 1) for age in range(AGES)] for _ in range(KINDS)]

    def _age(self, expert: Expert) -> int:
        return min((self.visits - self.last[expert]) // self.layers, AGES - 1)

    def on_visit(self, access: Access) -> None:
        """Let time pass, and work the densities out when it is time."""
        self.visits += 1
        if self.visits % (self.period * self.layers) == 0:
            for kind in range(KINDS):
                self._work_out(kind)

    def _work_out(self, kind: int) -> None:
        """Density of an age: hits still to come over the time that they and evictions take."""
        hits, evictions = self.hits[kind], self.evictions[kind]
        coming = ends = held = 0.0
        for age in reversed(range(AGES)):
            coming += hits[age]
            ends += hits[age] + evictions[age]
            held += ends
            if held > 0:
                self.density[kind][age] = coming / held
            hits[age] *= self.fade
            evictions[age] *= self.fade

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Book a hit at its age, and note the expert's new kind."""
        if hit:
            age = self._age(expert)
            self.hits[self.kind[expert]][age] += 1
            self.kind[expert] = min(1 + age.bit_length(), KINDS - 1)
        else:
            self.kind[expert] = 0
        self.last[expert] = self.visits

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Book an eviction at its age."""
        self.evictions[self.kind[expert]][self._age(expert)] += 1

    def score(self, expert: Expert, now: Now) -> float:
        """Worth: the hit density of the expert's kind at its age."""
        age = (self.visits - self.last[expert]) // self.layers
        return self.density[self.kind[expert]][age if age < AGES else -1]
