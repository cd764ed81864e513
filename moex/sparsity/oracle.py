"""The neurons with the largest true contribution: an upper bound, for studies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from moex.sparsity.active import active, contributions
from moex.sparsity.base import NeuronSelector
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.sparsity.base import Weights
    from moex.types import Geometry


@dataclass
class Oracle(NeuronSelector):
    """Computes the contribution of every neuron, and selects the largest.

    It needs the expert's weights, so it saves nothing. The loss of a trained selector beyond this
    one is the selector's error; the rest is inherent to the model. Contributions are those of the
    "down" masks of FloE (arXiv 2505.05950, figure 3), times the norm of the down column.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"weights"})

    rule: str = "top"
    fraction: float = 0.3
    mode: str = "late"
    prefill: str = "dense"

    def bind(self, geometry: Geometry, model: Path, weights: Weights | None = None) -> None:
        """Keep access to the weights."""
        assert weights is not None
        self.weights = weights

    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor:
        """Return the neurons that contribute most."""
        scores = [contributions(hidden, **self.weights(Expert(layer, index))) for index in experts]
        return active(torch.stack(scores), self.rule, self.fraction)
