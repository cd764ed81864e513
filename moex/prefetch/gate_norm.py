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

    `prefetch=gate` feeds the next routers what this layer's norm made of the residual; here each
    gets what its own norm makes of it, which is what it will see if the layers between add little.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"lookahead_norm"})

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the highest-scored experts of each layer ahead."""
        return list(self.name(observation.access, observation.lookahead_norm))
