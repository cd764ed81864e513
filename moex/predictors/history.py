"""The network of `prefetch=history`, in training form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from moex.types import Geometry


class HistoryNet(nn.Module):
    """Scores the experts of the next layers: a linear map of past routing, and a small network.

    Input: the experts of this layer and of the one before, and of every layer ahead those of the
    pass before and their mean use [experts * (2 + 2 * layers ahead)]. Output: logits [layers ahead
    * experts]. The network begins at 0.
    """

    def __init__(self, experts: int, horizon: int, width: int) -> None:
        super().__init__()
        self.horizon, size = horizon, experts * (2 + 2 * horizon)
        self.inner, self.outer = nn.Linear(size, width), nn.Linear(width, horizon * experts)
        self.direct = nn.Linear(size, horizon * experts, bias=False)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, history: Tensor) -> Tensor:
        """Logits [tokens, layers ahead * experts] of past routing [tokens, features]."""
        logits: Tensor = self.direct(history) + self.outer(self.inner(history).relu())
        return logits


def history_nets(geometry: Geometry, width: int, horizon: int) -> nn.ModuleList:
    """One network per layer except the last."""
    horizons = [min(horizon, geometry.layers - 1 - layer) for layer in range(geometry.layers - 1)]
    return nn.ModuleList(HistoryNet(geometry.experts, ahead, width) for ahead in horizons)
