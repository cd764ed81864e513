"""A linear probe: routers trained to predict later layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from moex.predictors.nets import read_nets
from moex.predictors.trained import kind_of
from moex.prefetch.scored import ScoredPrefetcher

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from moex.prefetch.base import Observation
    from moex.types import Geometry, Prediction


@dataclass
class Linear(ScoredPrefetcher):
    """Apply, for each layer ahead, a router trained on this layer's router input.

    It is `prefetch=mlp` without hidden layers: the linear baseline of trained predictors. A score
    is the probability of being chosen, summed over the visit's tokens. It costs one matrix product.

    Args:
        checkpoint: a file; None: the one in the model's folder or in the cache folder.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hidden"})
    trainer: ClassVar[str] = "moex.train.experts.LinearTrainer"

    checkpoint: str | None = None

    def bind(self, geometry: Geometry, model: Path, selector: Any = None) -> None:
        """Read the checkpoint of this model."""
        self.experts, self.routers = geometry.experts, []
        for net in read_nets(kind_of(type(self)), geometry, model, self.checkpoint):
            own, count = net.routers, min(self.depth, net.horizon) * geometry.experts
            self.routers.append((own.weight[:count].bfloat16(), own.bias[:count].bfloat16()))
        self.device_bytes = sum(t.nbytes for router in self.routers for t in router)

    @torch.no_grad()
    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the experts of highest probability."""
        layer, hidden = observation.access.layer, observation.hidden
        if layer == len(self.routers):
            return []
        weight, bias = self.routers[layer]
        if weight.device != hidden.device:
            weight, bias = self.routers[layer] = weight.to(hidden.device), bias.to(hidden.device)
        logits = functional.linear(hidden.bfloat16(), weight, bias).float()
        rows = self.scores(logits.view(len(hidden), -1, self.experts)).sum(0).tolist()
        return list(self.name(observation.access, rows))

    def scores(self, logits: Tensor) -> Tensor:
        """Return scores from logits [tokens, layers ahead, experts], to be summed over tokens."""
        return logits.sigmoid()
