"""A trained predictor of another package: what predicts, and what trains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from moex.predictors import trained
from moex.prefetch.scored import ScoredPrefetcher
from moex.train.fit import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moex.prefetch.base import Observation
    from moex.runner.assemble import LoadedModel
    from moex.train.recipe import Recipe
    from moex.types import Geometry, Prediction


@dataclass
class Frequent(ScoredPrefetcher):
    """Predict the experts that were chosen most often in training, whatever the token."""

    trainer: ClassVar[str] = "plugin_example.frequent.FrequentTrainer"

    checkpoint: str | None = None

    def bind(self, geometry: Geometry, model: Path, selector: Any = None) -> None:
        """Read the counts of this model."""
        found = trained.read(trained.kind_of(type(self)), geometry, model, self.checkpoint)
        self.counts = [found.tensors[str(layer)].tolist() for layer in range(geometry.layers)]

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the most frequent experts of the next layers."""
        access = observation.access
        return list(self.name(access, self.counts[access.layer + 1 :]))


class FrequentTrainer(Trainer):
    """Counts choices, as shares of all tokens."""

    def __init__(self, geometry: Geometry, recipe: Recipe, seed: int) -> None:
        empty = (nn.Parameter(torch.zeros(geometry.experts)) for _ in range(geometry.layers))
        self.modules, self.tokens = nn.ParameterList(empty), 0
        super().__init__(recipe, seed)

    @classmethod
    def of(cls, loaded: LoadedModel, recipe: Recipe, seed: int) -> Self:
        """Start from nothing."""
        return cls(loaded.geometry, recipe, seed)

    @torch.no_grad()
    def learn(self, seen: Sequence[Any], windows: int, progress: float) -> None:
        """Count a batch."""
        self.tokens += len(seen[0].chosen)
        for counts, layer in zip(self.modules, seen, strict=True):
            counts += torch.bincount(layer.chosen.flatten(), minlength=len(counts))

    @torch.no_grad()
    def finish(self) -> None:
        """Make shares of counts."""
        for counts in self.modules:
            counts /= self.tokens
