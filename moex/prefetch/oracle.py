"""An oracle of given precision and recall."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from moex.prefetch.base import Prefetcher, missing_recording
from moex.types import Expert, Prediction

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.trace.format import Trace
    from moex.types import Geometry


@dataclass
class Oracle(Prefetcher):
    """Predict the next `horizon` visits from a recording, with given precision and recall.

    For every visit ahead (after the last layer follows the first, of the next token) each demanded
    expert is predicted with probability `recall`, and as many others that a share of `precision` of
    the predictions is right on average. The prediction of a visit depends on the seed alone, not on
    when it is made. It shows how good a predictor must be before one is trained.

    Raises:
        ValueError: `precision` outside (0, 1], `recall` outside [0, 1] or `horizon` below 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"future"})

    precision: float = 1.0
    recall: float = 1.0
    horizon: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.precision <= 1:
            raise ValueError(f"prefetch.precision={self.precision}: expected a share in (0, 1]")
        if not 0 <= self.recall <= 1:
            raise ValueError(f"prefetch.recall={self.recall}: expected a share in [0, 1]")
        if self.horizon < 1:
            raise ValueError(f"prefetch.horizon={self.horizon}: expected 1 or more layers ahead")
        self.visits: list[tuple[int, tuple[int, ...]]] = []

    def set_future(self, trace: Trace) -> None:
        """Take the recording: the experts of every visit, and where sequences end."""
        self.visits = [(access.layer, access.experts) for access in trace.accesses()]
        self.sequence = trace.sequence.tolist()

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard past predictions."""
        if not self.visits:
            raise missing_recording(self, "visits")
        self.experts, self.seed = geometry.experts, seed
        self.made: dict[int, list[Expert]] = {}

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the experts of the next visits, nearest visit first."""
        return self._predict(observation.access.clock)

    @property
    def repeatable(self) -> bool:
        """Predictions depend on the recording alone."""
        return True

    def predictions(self, trace: Trace) -> tuple[Any, Any]:
        """Return the same of every visit of a trace."""
        visits = [self._predict(clock) for clock in range(len(trace))]
        offsets = np.append(0, np.cumsum([len(visit) for visit in visits]))
        named = [p.expert.layer * self.experts + p.expert.index for visit in visits for p in visit]
        return offsets, np.array(named, np.int64)

    def _predict(self, now: int) -> list[Prediction]:
        self.made.pop(now, None)
        predictions: list[Prediction] = []
        for ahead in range(1, self.horizon + 1):
            clock = now + ahead
            if clock >= len(self.visits) or self.sequence[clock] != self.sequence[now]:
                break
            if clock not in self.made:
                self.made[clock] = self._predict_visit(clock)
            predictions.extend(Prediction(expert, 1 / ahead) for expert in self.made[clock])
        return predictions

    def _predict_visit(self, clock: int) -> list[Expert]:
        layer, demanded = self.visits[clock]
        if self.precision == self.recall == 1:
            return [Expert(layer, index) for index in demanded]
        draws = Random(self.seed * 1_000_003 + clock)
        right = [index for index in demanded if draws.random() < self.recall]
        others = [index for index in range(self.experts) if index not in demanded]
        # The mean number of wrong predictions, so that precision holds over the run.
        wrong = self.recall * len(demanded) * (1 - self.precision) / self.precision
        count = min(len(others), int(wrong + draws.random()))
        predicted = right + draws.sample(others, count)
        draws.shuffle(predicted)
        return [Expert(layer, index) for index in predicted]
