"""A trained predictor of experts, one small network a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from moex import trained
from moex.prefetch.scored import DEEPEST, ScoredPrefetcher

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from moex.prefetch.base import Observation
    from moex.types import Geometry, Prediction

KIND = "mlp"
DECAY = 0.8


class LayerNet(nn.Module):
    """Scores the experts of the next layers: routers of its own, corrected by a small network.

    Input: a token's router input [hidden], its choice in this layer (one of 0 and 1 an expert) and
    its past: for each layer ahead, the decayed mean of the sequence's choices there before this
    token. Output: logits [layers ahead, experts] of being chosen.
    """

    def __init__(self, hidden: int, experts: int, horizon: int, width: int) -> None:
        super().__init__()
        self.horizon, self.experts = horizon, experts
        self.inner = nn.Linear(hidden + experts * (1 + horizon), width)
        self.outer = nn.Linear(width, horizon * experts)
        self.routers = nn.Linear(hidden, horizon * experts, bias=False)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: Tensor, chosen: Tensor, past: Tensor) -> Tensor:
        """Logits [tokens, layers ahead, experts].

        Args:
            hidden: [tokens, hidden].
            chosen: 0 or 1 [tokens, experts].
            past: [tokens, layers ahead, experts].
        """
        hidden = hidden.to(self.routers.weight.dtype)  # half precision in a run
        features = torch.cat([hidden, chosen.to(hidden.dtype), past.flatten(1).to(hidden.dtype)], 1)
        logits = self.routers(hidden) + self.outer(nn.functional.gelu(self.inner(features)))
        return logits.unflatten(1, (self.horizon, self.experts))


def nets(geometry: Geometry, width: int, horizon: int = DEEPEST) -> nn.ModuleList:
    """One network for each layer but the last."""
    return nn.ModuleList(
        LayerNet(
            geometry.hidden, geometry.experts, min(horizon, geometry.layers - 1 - layer), width
        )
        for layer in range(geometry.layers - 1)
    )


def multi_hot(index: Tensor, experts: int) -> Tensor:
    """Choices [tokens, k] as 0 and 1 [tokens, experts]."""
    return torch.zeros(len(index), experts, device=index.device).scatter_(1, index.long(), 1.0)


@dataclass
class MLP(ScoredPrefetcher):
    """Ask networks trained on this model's own routing (after FloE, arXiv 2505.05950, section 4).

    A layer's network sees the router input, the layer's choice and the recent choices of the layers
    ahead, and begins its training as those layers' routers, so it starts as `prefetch=gate` and
    learns what the layers between change. A score is the probability of being chosen, summed over
    the visit's tokens. The past is forgotten where a prompt begins.

    Args:
        checkpoint: a file; None for the one beside the model or in the cache folder.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hidden", "chosen"})

    checkpoint: str | None = None

    def bind(self, geometry: Geometry, model: Path, selector: Any = None) -> None:
        """Read the checkpoint of this model."""
        found = trained.read(KIND, geometry, model, self.checkpoint)
        self.nets: Any = nets(geometry, found.about["width"], found.about["horizon"])
        self.nets.load_state_dict(found.tensors)
        self.nets.half().requires_grad_(False)
        self.device_bytes = sum(tensor.nbytes for tensor in self.nets.parameters())

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Forget the past."""
        super().reset(geometry, seed)
        self.layers, self.experts = geometry.layers, geometry.experts
        self.past: Tensor | None = None

    def observe(self, observation: Observation) -> None:
        """Remember the visit's choices; a prompt begins with no past, and so does another batch."""
        layer, hidden = observation.access.layer, observation.hidden
        begins = layer == observation.access.position == 0
        if self.past is None or begins or self.past.shape[1] != len(hidden):
            self.nets.to(hidden.device)
            self.past = torch.zeros(self.layers, len(hidden), self.experts, device=hidden.device)
        self.chosen = multi_hot(observation.chosen, self.experts)
        self.past[layer].mul_(DECAY).add_(self.chosen, alpha=1 - DECAY)

    @torch.no_grad()
    def predict(self, observation: Observation) -> list[Prediction]:
        """Return the experts most probably chosen."""
        layer = observation.access.layer
        if layer == self.layers - 1:
            return []
        assert self.past is not None
        net = self.nets[layer]
        past = self.past[layer + 1 : layer + 1 + net.horizon].transpose(0, 1)
        logits = net(observation.hidden, self.chosen, past).float()
        return list(self.name(observation.access, logits.sigmoid().sum(0).tolist()))
