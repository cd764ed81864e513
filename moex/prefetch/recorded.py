"""Replays the predictions that a run stored in its trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
        self.predictions: list[list[Prediction]] = []
        self.first = 0

    def set_future(self, trace: Trace) -> None:
        """Take the recorded predictions: of all visits, or of a chunk that comes next."""
        self.predictions, self.first = trace.predictions or [], trace.first

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Check that there is a recording."""
        if not self.predictions:
            raise missing_recording(self, "predictions")

    def predict(self, observation: Observation) -> Sequence[Prediction]:
        """Return the predictions recorded at this clock.

        Raises:
            ValueError: the recorded run has fewer visits.
        """
        visit = observation.access.clock - self.first
        if visit >= len(self.predictions):
            raise ValueError(
                f"prefetch=recorded: visit {self.first + visit} of a run whose recording ends "
                f"after {self.first + len(self.predictions)}; expected the recording of this same "
                "run"
            )
        return self.predictions[visit]
