"""The past request whose experts most resemble the running one's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.eam import Activations
from moex.prefetch.library import Library
from moex.prefetch.scored import ScoredPrefetcher
from moex.types import Expert

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Geometry, Prediction


@dataclass
class EAM(ScoredPrefetcher):
    """Predict what the request most like this one activated (MoE-Infinity, arXiv 2401.14361).

    A request's expert activation matrix counts how often it used each expert of each layer. A
    collection holds those of past requests; the nearest is found by the mean cosine of the layers,
    and a full collection replaces the one most like the new. The paper makes its collection before,
    from a data set; this one fills while running, and until a request has ended the running one's
    own counts are predicted from. Scores fall with the distance of the layer. A request begins
    where positions fall back, as for the policy `cache=eam`, which shares the counts.

    Args:
        capacity: matrices in the collection.

    Raises:
        ValueError: a `capacity` below 1.
    """

    capacity: int = 120

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.capacity < 1:
            raise ValueError(f"prefetch.capacity={self.capacity}: expected 1 request or more")

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard all requests."""
        super().reset(geometry, seed)
        self.layers, self.experts = geometry.layers, range(geometry.experts)
        self.request = Activations(past=0.0)
        self.library = Library(geometry, self.capacity)

    def observe(self, observation: Observation) -> None:
        """Count the visit; where a request begins, keep the matrix of the one before."""
        access = observation.access
        if self.request.count(access):
            self.library.keep()
        names = (Expert(access.layer, index) for index in self.experts)
        self.library.note(access.layer, [self.request.share(name) for name in names])

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the experts of the layers ahead in the nearest matrix, nearer layers first."""
        access, found = observation.access, self.library.nearest()
        if found is None:
            found = self.library.running
        ahead = found[access.layer + 1 :][: self.depth]
        rows = [row * (1 - far / self.layers) for far, row in enumerate(ahead)]
        return list(self.name(access, [row.tolist() for row in rows]))
