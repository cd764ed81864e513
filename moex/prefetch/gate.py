"""Gate lookahead: ask the next layers' routers now."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nlargest
from typing import TYPE_CHECKING, ClassVar

from moex.prefetch.base import Prefetcher
from moex.types import PREFILL, Expert, Prediction

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Geometry

DEEPEST = 3


@dataclass
class Gate(Prefetcher):
    """Apply the routers of the next `depth` layers to this layer's router input; fetch the best.

    Speculative loading of Eliseev & Mazur 2023, arXiv 2312.17238 (section 3.2): it works because
    the residual stream changes slowly. `width` experts a layer, 0 for the model's top-k; in prefill
    every expert with a share of the router's mass is a candidate, largest first, because the next
    layer's union is nearly known. Nearer layers come first.

    Raises:
        ValueError: `depth` outside 1..3 or a negative `width`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"lookahead"})

    depth: int = 1
    width: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= DEEPEST:
            raise ValueError(f"prefetch.depth={self.depth}: expected 1 to {DEEPEST} layers ahead")
        if self.width < 0:
            raise ValueError(f"prefetch.width={self.width}: expected 0 (top-k) or more experts")

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Learn how many experts a token uses."""
        self.per_layer = self.width or geometry.top_k

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the highest-scored experts of each layer ahead."""
        access = observation.access
        predictions: list[Prediction] = []
        for ahead, scores in enumerate(observation.lookahead[: self.depth], start=1):
            layer = access.layer + ahead
            width = len(scores) if access.phase == PREFILL else self.per_layer
            best = nlargest(width, range(len(scores)), key=scores.__getitem__)
            predictions.extend(Prediction(Expert(layer, i), scores[i]) for i in best if scores[i])
        return predictions
