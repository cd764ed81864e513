"""The most used experts of the next layer."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nlargest
from typing import TYPE_CHECKING

from moex.prefetch.base import Prefetcher
from moex.types import Expert, Prediction

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Geometry


@dataclass
class Popularity(Prefetcher):
    """Predict the `width` experts with the highest moving average of use, 0 for top-k.

    At every visit of a layer each expert's average becomes `decay * average + (1 - decay) * used`;
    near 1 it ranks experts by overall use, near 0 it is the previous token's choice.

    Raises:
        ValueError: `decay` outside [0, 1) or a negative `width`.
    """

    width: int = 0
    decay: float = 0.98

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"prefetch.decay={self.decay}: expected a factor in [0, 1), e.g. 0.98")
        if self.width < 0:
            raise ValueError(f"prefetch.width={self.width}: expected 0 (top-k) or more experts")

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard all averages."""
        self.layers, self.named = geometry.layers, self.width or geometry.top_k
        self.average = [[0.0] * geometry.experts for _ in range(geometry.layers)]

    def observe(self, observation: Observation) -> None:
        """Update the layer's averages."""
        layer, decay = observation.access.layer, self.decay
        averages = [value * decay for value in self.average[layer]]
        for index in observation.access.experts:
            averages[index] += 1 - decay
        self.average[layer] = averages

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the most popular experts of the next layer."""
        layer = (observation.access.layer + 1) % self.layers
        scores = self.average[layer]
        best = nlargest(self.named, range(len(scores)), key=scores.__getitem__)
        return [Prediction(Expert(layer, i), scores[i]) for i in best if scores[i]]
