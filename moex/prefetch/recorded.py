"""Replays the predictions that a run stored in its trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from moex.prefetch.base import Prefetcher, missing_recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.prefetch.base import Observation
    from moex.trace.format import Trace
    from moex.types import Geometry, Prediction


@dataclass
class Recorded(Prefetcher):
    """Repeat at every visit the predictions that the recorded run made there.

    A run with a learned predictor can so be replayed without its weights, and without torch.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"recorded"})

    def __post_init__(self) -> None:
        self.recorded: list[list[Prediction]] = []
        self.first = 0

    def set_future(self, trace: Trace) -> None:
        """Take the recorded predictions: of all visits, or of a chunk that comes next."""
        self.recorded, self.first = trace.predictions or [], trace.first

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Check that there is a recording."""
        if not self.recorded:
            raise missing_recording(self, "predictions")

    def predict(self, observation: Observation) -> Sequence[Prediction]:
        """Return the predictions recorded at this clock.

        Raises:
            ValueError: the recorded run has fewer visits.
        """
        visit = observation.access.clock - self.first
        if visit >= len(self.recorded):
            raise self._ends(visit)
        return self.recorded[visit]

    def _ends(self, visit: int) -> ValueError:
        return ValueError(
            f"prefetch=recorded: visit {self.first + visit} of a run whose recording ends after "
            f"{self.first + len(self.recorded)}; expected the recording of this same run"
        )

    @property
    def repeatable(self) -> bool:
        """Predictions depend on the recording alone."""
        return True

    def predictions(self, trace: Trace) -> tuple[Any, Any]:
        """Return all recorded predictions."""
        recorded, experts = self.recorded[: len(trace)], trace.geometry.experts
        if len(recorded) < len(trace):
            raise self._ends(len(recorded))
        offsets = np.append(0, np.cumsum([len(visit) for visit in recorded]))
        named = [p.expert.layer * experts + p.expert.index for visit in recorded for p in visit]
        return offsets, np.array(named, np.int64)
