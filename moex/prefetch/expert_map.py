"""The past pass whose routing most resembles the running one's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moex.prefetch.library import Library
from moex.prefetch.scored import ScoredPrefetcher
from moex.types import DECODE

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Geometry, Prediction


@dataclass
class ExpertMap(ScoredPrefetcher):
    """Predict what the decoding passes most like this one routed to (FineMoE, arXiv 2502.05370).

    A library holds the routers' rows of past passes, layers x experts; where none are recorded, a
    row is the set of demanded experts. The nearest are found by the mean cosine of the layers that
    this pass has visited. A full library replaces the map most like the new one.

    FineMoE finds the first layers' map by the prompt's embedding, which no prefetcher is given:
    here one layer is enough to search with, and layer 0 is not predicted. Its cumulative threshold
    is `mass`.

    Args:
        capacity: maps in the library.
        nearest: maps whose mean is predicted from; FineMoE's 1.

    Raises:
        ValueError: a `capacity` or `nearest` below 1.
    """

    capacity: int = 1000
    nearest: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("capacity", "nearest"):
            if getattr(self, name) < 1:
                raise ValueError(f"prefetch.{name}={getattr(self, name)}: expected 1 map or more")

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard all maps."""
        super().reset(geometry, seed)
        self.layers, self.experts = geometry.layers, geometry.experts
        self.library = Library(geometry, self.capacity)

    def observe(self, observation: Observation) -> None:
        """Add the visit to the pass's map; keep that of a decoding pass that is complete."""
        access = observation.access
        if access.layer == 0:
            self.library.begin()
        used = np.bincount(access.experts, minlength=self.experts)
        self.library.note(access.layer, access.scores or used)
        if access.layer == self.layers - 1 and access.phase == DECODE:
            self.library.keep()

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the experts of the layers ahead in the nearest maps."""
        access = observation.access
        found = self.library.nearest(self.nearest)
        if found is None:
            return []
        return list(self.name(access, found[access.layer + 1 :].tolist()))
