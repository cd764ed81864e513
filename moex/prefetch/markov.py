"""Transitions between neighbouring layers, counted during the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moex.prefetch.base import Prefetcher
from moex.types import DECODE, Expert, Prediction

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Access, Geometry


@dataclass
class Markov(Prefetcher):
    """Predict the experts that most often followed this layer's experts in the next layer.

    Counts how often expert j of layer l + 1 was used by a token that used expert i of layer l
    (after the last layer: of the next token's first), starting every count at `prior`. An expert's
    score is the mean over the present experts of its share of their rows. Learns from decoded
    tokens only, because a prompt's union of experts has no pairs.

    Args:
        width: experts predicted for the next layer, 0 for top-k.
        prior: Laplace's count for a transition not yet seen.

    Raises:
        ValueError: a negative `width` or a `prior` that is not positive.
    """

    width: int = 0
    prior: float = 0.1

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError(f"prefetch.width={self.width}: expected 0 (top-k) or more experts")
        if self.prior <= 0:
            raise ValueError(f"prefetch.prior={self.prior}: expected a positive count, e.g. 0.1")

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard all transitions."""
        self.layers, self.named = geometry.layers, self.width or geometry.top_k
        shape = (geometry.layers, geometry.experts, geometry.experts)
        self.counts = np.full(shape, self.prior)
        self.before: Access | None = None

    def observe(self, observation: Observation) -> None:
        """Count the transitions from the visit before to this one."""
        access, before = observation.access, self.before
        self.before = access if access.phase == DECODE else None
        if before is not None and self.before and (before.layer + 1) % self.layers == access.layer:
            self.counts[before.layer][np.ix_(before.experts, access.experts)] += 1

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the most probable experts of the next layer."""
        access = observation.access
        rows = self.counts[access.layer][list(access.experts)]
        scores = (rows / rows.sum(axis=1, keepdims=True)).mean(axis=0)
        layer = (access.layer + 1) % self.layers
        best = np.argsort(-scores, kind="stable")[: self.named].tolist()
        return [Prediction(Expert(layer, index), float(scores[index])) for index in best]
