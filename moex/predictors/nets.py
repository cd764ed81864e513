"""Networks of the trained expert predictors, in training form and in low-bit inference form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from moex.predictors import trained
from moex.predictors.packed_matmul import EightBits
from moex.types import DEEPEST

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from moex.types import Geometry

DECAY = 0.8
"""Decay factor of the past from one token to the next."""


class LinearNet(nn.Module):
    """Scores the experts of the next layers with trained linear routers.

    It has the inputs of a `LayerNet` but uses the hidden state only. Output: logits [tokens,
    layers ahead, experts].
    """

    def __init__(self, hidden: int, experts: int, horizon: int) -> None:
        super().__init__()
        self.horizon, self.experts = horizon, experts
        self.routers = nn.Linear(hidden, horizon * experts)
        nn.init.zeros_(self.routers.bias)

    def forward(self, hidden: Tensor, chosen: Tensor, past: Tensor) -> Tensor:
        """Logits [tokens, layers ahead, experts] of router inputs [tokens, hidden]."""
        logits = self.routers(hidden.to(self.routers.weight.dtype))
        return logits.unflatten(1, (self.horizon, self.experts))


class LayerNet(nn.Module):
    """Scores the experts of the next layers: trained routers, corrected by a small network.

    Input: a token's router input [hidden], its choice in this layer (multi-hot over experts) and
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


class Lean:
    """A `LayerNet` for inference: in eight bits, and for the next `depth` layers only.

    Its first matrix computes the inner layer and the router logits, the second the correction.
    """

    def __init__(self, net: LayerNet, depth: int) -> None:
        count = min(depth, net.horizon) * net.experts
        inner, routers = net.inner.weight, net.routers.weight[:count]
        # Routers use the hidden state only.
        routers = nn.functional.pad(routers, (0, inner.shape[1] - routers.shape[1]))
        self.horizon, self.sizes = net.horizon, (len(inner), count)
        self.first = EightBits(torch.cat([inner, routers]))
        self.bias = torch.cat([net.inner.bias, net.outer.bias[:count]]).bfloat16()
        self.outer = EightBits(net.outer.weight[:count])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.first.nbytes + self.bias.nbytes + self.outer.nbytes

    def __call__(self, hidden: Tensor, history: Tensor) -> Tensor:
        """Logits [tokens, layers ahead * experts].

        Args:
            hidden: [tokens, hidden].
            history: choices and past, as `LayerNet` takes them [tokens, experts * (1 + horizon)].
        """
        if self.bias.device != hidden.device:
            self.first.to(hidden.device)
            self.outer.to(hidden.device)
            self.bias = self.bias.to(hidden.device)
        features = torch.cat([hidden.bfloat16(), history.to(hidden.device, torch.bfloat16)], 1)
        both = self.first(features).add_(self.bias)
        inner, logits = both.split(self.sizes, 1)
        return logits + self.outer(nn.functional.gelu(inner))


def nets(geometry: Geometry, width: int, horizon: int = DEEPEST) -> nn.ModuleList:
    """One network per layer except the last; linear ones if `width` is 0."""
    hidden, experts = geometry.hidden, geometry.experts
    horizons = [min(horizon, geometry.layers - 1 - layer) for layer in range(geometry.layers - 1)]
    return nn.ModuleList(
        LayerNet(hidden, experts, ahead, width) if width else LinearNet(hidden, experts, ahead)
        for ahead in horizons
    )


def read_nets(kind: str, geometry: Geometry, model: Path, checkpoint: str | None = None) -> Any:
    """Read the networks of this model's checkpoint, in training form.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it belongs to another model.
    """
    found = trained.read(kind, geometry, model, checkpoint)
    made = nets(geometry, found.about["width"], found.about["horizon"])
    made.load_state_dict(found.tensors)
    return made.requires_grad_(False)


def multi_hot(index: Tensor, experts: int) -> Tensor:
    """Choices [tokens, k] as multi-hot rows of 0 and 1 [tokens, experts]."""
    return torch.zeros(len(index), experts, device=index.device).scatter_(1, index.long(), 1.0)
