"""The networks of `prefetch=mlp`: as they are trained, and as a run computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from moex.prefetch.scored import DEEPEST

if TYPE_CHECKING:
    from moex.types import Geometry

DECAY = 0.8
"""Of the past, from one token to the next."""


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
        hidden = hidden.to(self.routers.weight.dtype)
        features = torch.cat([hidden, chosen.to(hidden.dtype), past.flatten(1).to(hidden.dtype)], 1)
        logits = self.routers(hidden) + self.outer(nn.functional.gelu(self.inner(features)))
        return logits.unflatten(1, (self.horizon, self.experts))

    def fused(self, depth: int) -> Fused:
        """What scores the next `depth` layers with two products, in half precision."""
        count = min(depth, self.horizon) * self.experts
        inner, routers = self.inner.weight, self.routers.weight[:count]
        # Routers see the hidden state alone.
        routers = nn.functional.pad(routers, (0, inner.shape[1] - routers.shape[1]))
        bias = torch.cat([self.inner.bias, self.outer.bias[:count]])
        made = torch.cat([inner, routers]), bias, self.outer.weight[:count].clone()
        return Fused(*(part.half() for part in made))


class Fused(NamedTuple):
    """A `LayerNet` for a run.

    `first` [width + outputs, inputs] and its `bias` make the inner layer and the routers' part,
    `outer` [outputs, width] the correction.
    """

    first: Tensor
    bias: Tensor
    outer: Tensor

    def to(self, device: torch.device) -> Fused:
        """The same on another device."""
        return Fused(*(part.to(device) for part in self))

    def logits(self, features: Tensor) -> Tensor:
        """`LayerNet.forward` [tokens, layers ahead * experts] of its features [tokens, inputs]."""
        both = nn.functional.linear(features, self.first, self.bias)
        inner, linear = both.split((self.outer.shape[1], len(self.outer)), 1)
        return linear.addmm(nn.functional.gelu(inner), self.outer.t())


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
