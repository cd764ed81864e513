"""No prefetching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moex.prefetch.base import Prefetcher

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.types import Prediction


@dataclass
class NoPrefetch(Prefetcher):
    """Fetch on demand only."""

    predicts: ClassVar[bool] = False

    def predict(self, observation: Observation) -> list[Prediction]:
        """Predict nothing."""
        return []
