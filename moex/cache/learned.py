"""A learned prediction of when each expert is used next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moex.types import Access, Expert, Now, Scope

FEATURES = 6


@dataclass
class LearnedReuse(CachePolicy):
    """Evict the expert whose predicted next use is farthest (after FlashMoE and CECAR).

    They train a network offline; this is a linear model on logarithms of age, last and mean reuse
    distance, count and router score, learnt while running by recursive least squares. Every visit
    takes one expert's features (round robin); its next use gives the answer: log visits waited.
    Experts that never return give none, so waits are underestimated. A better regression does not
    make a better policy (arXiv 2608.07911): evaluate it by the rank of its victims, as
    experiments/studies/learned_reuse does. `memory` below 1 discounts old answers.

    Raises:
        ValueError: a parameter outside its range.
    """

    memory: float = 0.9995
    ridge: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.memory <= 1:
            raise ValueError(
                f"cache.memory={self.memory}: expected a factor in (0, 1], e.g. 0.9995"
            )
        if self.ridge <= 0:
            raise ValueError(f"cache.ridge={self.ridge}: expected a weight above 0, e.g. 1.0")

    def reset(self, scope: Scope) -> None:
        """Start from LRU: the expert of longest age is predicted to wait longest."""
        self.start, self.experts = min(scope.layers), scope.experts
        size = len(scope.layers) * scope.experts
        self.visits = 0
        self.last, self.gap, self.mean_gap = (np.zeros(size) for _ in range(3))
        self.count, self.score = np.zeros(size), np.zeros(size)
        self.asked: dict[int, tuple[int, NDArray[np.float64]]] = {}
        self.weights = np.zeros(FEATURES)
        self.weights[1] = 1.0
        self.spread = np.eye(FEATURES) / self.ridge

    def _number(self, expert: Expert) -> int:
        return (expert.layer - self.start) * self.experts + expert.index

    def _features(self, numbers: list[int]) -> NDArray[np.float64]:
        age = self.visits - self.last[numbers]
        columns = (age, self.gap[numbers], self.mean_gap[numbers], self.count[numbers])
        logs = [np.log1p(column) for column in columns]
        return np.stack([np.ones(len(numbers)), *logs, self.score[numbers]], axis=1)

    def on_visit(self, access: Access) -> None:
        """Advance time, note router scores, and sample one expert's features."""
        self.visits += 1
        if access.scores:
            base = (access.layer - self.start) * self.experts
            row = self.score[base : base + self.experts]
            row += 0.5 * (np.asarray(access.scores) - row)
        number = self.visits % len(self.last)
        if self.count[number] and number not in self.asked:
            self.asked[number] = (self.visits, self._features([number])[0])

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Learn from this use if the expert's features were sampled, then count the use."""
        number = self._number(expert)
        if number in self.asked:
            when, features = self.asked.pop(number)
            self._learn(features, float(np.log1p(self.visits - when)))
        gap = self.visits - self.last[number]
        if self.count[number]:
            self.gap[number] = gap
            self.mean_gap[number] += (gap - self.mean_gap[number]) / min(self.count[number], 8)
        self.last[number] = self.visits
        self.count[number] += 1

    def _learn(self, features: NDArray[np.float64], answer: float) -> None:
        """Take one step of recursive least squares."""
        gain = self.spread @ features
        gain /= self.memory + features @ gain
        self.weights += gain * (answer - features @ self.weights)
        self.spread = (self.spread - np.outer(gain, features @ self.spread)) / self.memory

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the candidate of longest predicted wait."""
        waits = self._features([self._number(expert) for expert in candidates]) @ self.weights
        return candidates[int(waits.argmax())]
