"""Gate lookahead: ask the next layers' routers now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moex.prefetch.scored import ScoredPrefetcher

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Prediction


@dataclass
class Gate(ScoredPrefetcher):
    """Apply the routers of the next `depth` layers to this layer's router input; fetch the best.

    Speculative loading of Eliseev & Mazur 2023, arXiv 2312.17238 (section 3.2): it works because
    the residual stream changes slowly. A score is the share of the router's mass.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"lookahead"})

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the highest-scored experts of each layer ahead."""
        return list(self.name(observation.access, observation.lookahead))
