"""A trained predictor of experts, one small network a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from moex.predictors.nets import DECAY, Lean, read_nets
from moex.predictors.trained import kind_of
from moex.prefetch.scored import ScoredPrefetcher

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from moex.prefetch.base import Observation
    from moex.types import Geometry, Prediction


@dataclass
class MLP(ScoredPrefetcher):
    """Predict with networks trained on this model's routing (after FloE, arXiv 2505.05950, sec. 4).

    A layer's network gets the router input, the layer's choice and the recent choices of the layers
    ahead. Its training starts from those layers' routers, that is from `prefetch=gate`, and learns
    the change by the layers between. A score is the probability of being chosen, summed over the
    visit's tokens. Past choices are discarded where a prompt begins.

    Args:
        checkpoint: a file; None: the one in the model's folder or in the cache folder.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hidden", "chosen"})
    trainer: ClassVar[str] = "moex.train.experts.ExpertTrainer"

    checkpoint: str | None = None

    def bind(self, geometry: Geometry, model: Path, selector: Any = None) -> None:
        """Read the checkpoint of this model."""
        as_trained = read_nets(kind_of(type(self)), geometry, model, self.checkpoint)
        self.nets = [Lean(net, self.depth) for net in as_trained]
        self.device_bytes = sum(net.nbytes for net in self.nets)

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Discard past choices."""
        super().reset(geometry, seed)
        self.layers, self.experts = geometry.layers, geometry.experts
        self.past: NDArray[np.float32] | None = None

    def observe(self, observation: Observation) -> None:
        """Note the visit's choices; past choices are discarded at a prompt or a new batch size."""
        layer, chosen = observation.access.layer, observation.chosen.tolist()
        begins = layer == observation.access.position == 0
        if self.past is None or begins or self.past.shape[1] != len(chosen):
            self.past = np.zeros((self.layers, len(chosen), self.experts), np.float32)
        self.chosen = np.zeros((len(chosen), self.experts), np.float32)
        for row, experts in zip(self.chosen, chosen, strict=True):
            row[experts] = 1
        self.past[layer] += (1 - DECAY) * (self.chosen - self.past[layer])

    @torch.no_grad()
    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the experts of highest probability."""
        layer = observation.access.layer
        if layer == self.layers - 1:
            return []
        assert self.past is not None
        net = self.nets[layer]
        ahead = self.past[layer + 1 : layer + 1 + net.horizon]
        choices = torch.from_numpy(np.concatenate([self.chosen, *ahead], 1))
        found = net(observation.hidden, choices).float().sigmoid().sum(0).tolist()
        rows = [found[at : at + self.experts] for at in range(0, len(found), self.experts)]
        return list(self.name(observation.access, rows))
