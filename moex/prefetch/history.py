"""Small networks on past routing: they need no hidden state and no router score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from moex.prefetch.scored import ScoredPrefetcher

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from moex.prefetch.base import Observation
    from moex.types import Geometry, Prediction

DECAY = 0.9
"""Decay factor of the mean use of an expert, from one pass to the next."""


@dataclass
class History(ScoredPrefetcher):
    """Predict with networks trained on the routing of a recorded trace (`mode=train`).

    A layer's network gets the experts of this layer and of the one before, and of every layer ahead
    the experts of the pass before and their decayed mean use in the request. So it works on every
    trace, also on an imported one. A score is the probability of being demanded. Past experts are
    discarded where positions fall back.

    Args:
        checkpoint: a file; None: the one in the model's folder or in the cache folder. A replay
            knows no model, so it needs a file.
    """

    trainer: ClassVar[str] = "moex.train.history.HistoryTrainer"

    checkpoint: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.nets: list[tuple[NDArray[np.float32], ...]] = []

    def bind(self, geometry: Geometry, model: Path | None, selector: Any = None) -> None:
        """Read the checkpoint of this model; without one, the file that was given."""
        from moex.predictors import trained

        kind = trained.kind_of(type(self))
        found = trained.read(kind, geometry, model, self.checkpoint, reads="trace")
        weights = {name: each.float().numpy() for name, each in found.tensors.items()}
        parts = ("inner.weight", "inner.bias", "outer.weight", "outer.bias", "direct.weight")
        layers = range(geometry.layers - 1)
        self.nets = [tuple(weights[f"{layer}.{part}"] for part in parts) for layer in layers]
        self.horizon = int(found.about["horizon"])

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard past experts."""
        super().reset(geometry, seed)
        if not self.nets and geometry.layers > 1:
            self.bind(geometry, None)
        self.layers, self.experts = geometry.layers, geometry.experts
        self._begin()
        self.before = -1

    def _begin(self) -> None:
        self.chosen, self.mean = np.zeros((2, self.layers, self.experts), np.float32)

    def observe(self, observation: Observation) -> None:
        """Note the visit's experts; past ones are discarded where a request begins."""
        access = observation.access
        if access.layer == 0:
            if access.position <= self.before:
                self._begin()
            self.before = access.position
        row = np.zeros(self.experts, np.float32)
        row[list(access.experts)] = 1
        self.chosen[access.layer] = row
        self.mean[access.layer] += (1 - DECAY) * (row - self.mean[access.layer])

    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the experts of highest probability."""
        layer = observation.access.layer
        if layer == self.layers - 1:
            return []
        inner, inner_bias, outer, outer_bias, direct = self.nets[layer]
        ahead = slice(layer + 1, layer + 1 + self.horizon)
        before = self.chosen[layer - 1] if layer else np.zeros(self.experts, np.float32)
        # Layers ahead have not been visited in this pass: what they hold is of the one before.
        parts = (self.chosen[layer], before, self.chosen[ahead].ravel(), self.mean[ahead].ravel())
        given = np.concatenate(parts)
        logits = outer @ np.maximum(inner @ given + inner_bias, 0) + outer_bias + direct @ given
        scores = (1 / (1 + np.exp(-logits))).reshape(-1, self.experts)
        return list(self.name(observation.access, scores.tolist()))
