"""The previous token's experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.prefetch.base import Prefetcher
from moex.types import Expert, Prediction

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Geometry


@dataclass
class Previous(Prefetcher):
    """Predict for the next `depth` layers the experts that the previous token used there.

    The baseline of learned predictors. With a cache that keeps the last used experts it adds
    little, because they are resident already.

    Raises:
        ValueError: `depth` below 1.
    """

    depth: int = 1

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"prefetch.depth={self.depth}: expected 1 or more layers ahead")

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard past visits."""
        self.layers, self.top_k = geometry.layers, geometry.top_k
        self.used: dict[int, tuple[int, ...]] = {}

    def observe(self, observation: Observation) -> None:
        """Note the experts that this layer uses."""
        self.used[observation.access.layer] = observation.access.experts[: self.top_k]

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the last used experts of the layers ahead, nearest first."""
        predictions: list[Prediction] = []
        for ahead in range(1, min(self.depth, self.layers) + 1):
            layer = (observation.access.layer + ahead) % self.layers
            named = self.used.get(layer, ())
            predictions.extend(Prediction(Expert(layer, index), 1 / ahead) for index in named)
        return predictions
