"""The random predictor: a lower baseline."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.prefetch.base import Prefetcher
from moex.types import Expert, Prediction

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Geometry


@dataclass
class Random(Prefetcher):
    """Predict `width` experts of the next layer uniformly at random, 0 for the model's top-k.

    It shows the cost of wrong predictions: their bytes cross the link all the same.

    Raises:
        ValueError: a negative `width`.
    """

    width: int = 0

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError(f"prefetch.width={self.width}: expected 0 (top-k) or more experts")

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Start the random stream."""
        self.layers, self.experts = geometry.layers, range(geometry.experts)
        self.named = min(self.width or geometry.top_k, geometry.experts)
        self.draws = random.Random(seed)

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return distinct experts of the next layer."""
        layer = (observation.access.layer + 1) % self.layers
        sample = self.draws.sample(self.experts, self.named)
        return [Prediction(Expert(layer, index), 1 / len(self.experts)) for index in sample]
