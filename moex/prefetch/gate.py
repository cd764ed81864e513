"""Gate lookahead: applies the next layers' routers to this layer's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from moex.prefetch.scored import ScoredPrefetcher

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.trace.format import Trace
    from moex.types import Prediction


@dataclass
class Gate(ScoredPrefetcher):
    """Apply the routers of the next `depth` layers to this layer's router input.

    Speculative loading of Eliseev & Mazur 2023, arXiv 2312.17238 (section 3.2): it works because
    the residual stream changes slowly. A score is the router's softmax,
    summed over the visit's tokens.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"lookahead"})

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the highest-scored experts of each layer ahead."""
        return list(self.name(observation.access, observation.lookahead))

    @property
    def repeatable(self) -> bool:
        """Whether `predictions` gives all; not where a sum of scores decides."""
        return not self.mass

    def predictions(self, trace: Trace) -> tuple[Any, Any]:
        """Return the same of every visit of a trace."""
        return self.name_all(trace, trace.lookahead)
