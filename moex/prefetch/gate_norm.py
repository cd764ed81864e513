"""Gate lookahead through the next layer's own norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moex.prefetch.scored import ScoredPrefetcher

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Prediction


@dataclass
class GateNorm(ScoredPrefetcher):
    """Apply the norm and the router of the next `depth` layers to this layer's residual.

    `prefetch=gate` applies the next routers to the residual after this layer's norm; here each gets
    the residual after its own norm, which is its real input if the layers between add little.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"lookahead_norm"})

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the highest-scored experts of each layer ahead."""
        return list(self.name(observation.access, observation.lookahead_norm))
