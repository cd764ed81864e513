"""A predictor of another package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.prefetch.base import Prefetcher
from moex.types import Expert, Prediction

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Geometry


@dataclass
class Twice(Prefetcher):
    """Name the same numbers again in the next layer; a layer's numbers mean nothing to the next."""

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Learn where the model ends."""
        self.layers = geometry.layers

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the running visit's experts, one layer on."""
        layer = observation.access.layer + 1
        if layer >= self.layers:
            return []
        return [Prediction(Expert(layer, index), 1.0) for index in observation.access.experts]
