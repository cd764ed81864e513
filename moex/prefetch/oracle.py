"""The oracle dial: a predictor exactly as good as you say."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, ClassVar

from moex.prefetch.base import Prefetcher, missing_recording
from moex.types import Expert, Prediction

if TYPE_CHECKING:
    from moex.prefetch.base import Observation
    from moex.trace.format import Trace
    from moex.types import Geometry


@dataclass
class Oracle(Prefetcher):
    """Know the next `horizon` visits, perfectly or as well as a predictor of given quality.

    For every visit ahead (the layer after the last is the first, of the next token) each demanded
    expert is named with probability `recall`, and so many others that a share of `precision` of the
    names is right on average. What is said of a visit depends on the seed alone, not on when it is
    said. It answers how good a predictor must be before one is trained.

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
        """Take the recording: who is demanded at every clock, and where sequences end."""
        self.visits = [(access.layer, access.experts) for access in trace.accesses()]
        self.sequence = trace.sequence.tolist()

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Forget what was said."""
        if not self.visits:
            raise missing_recording(self, "visits")
        self.experts, self.seed = geometry.experts, seed
        self.said: dict[int, list[Expert]] = {}

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the names of the next visits' experts, nearest visit first."""
        now = observation.access.clock
        self.said.pop(now, None)
        predictions: list[Prediction] = []
        for ahead in range(1, self.horizon + 1):
            clock = now + ahead
            if clock >= len(self.visits) or self.sequence[clock] != self.sequence[now]:
                break
            if clock not in self.said:
                self.said[clock] = self._name(clock)
            predictions.extend(Prediction(expert, 1 / ahead) for expert in self.said[clock])
        return predictions

    def _name(self, clock: int) -> list[Expert]:
        layer, demanded = self.visits[clock]
        if self.precision == self.recall == 1:
            return [Expert(layer, index) for index in demanded]
        draws = Random(self.seed * 1_000_003 + clock)
        right = [index for index in demanded if draws.random() < self.recall]
        others = [index for index in range(self.experts) if index not in demanded]
        # Of the mean number of wrong names, so that precision holds over the run.
        wrong = self.recall * len(demanded) * (1 - self.precision) / self.precision
        count = min(len(others), int(wrong + draws.random()))
        named = right + draws.sample(others, count)
        draws.shuffle(named)
        return [Expert(layer, index) for index in named]
