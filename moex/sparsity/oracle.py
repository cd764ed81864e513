"""The neurons that truly contribute most: an upper bound, for studies."""

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
    """Compute every neuron first, and then say which ones had to be computed.

    It needs the weights that it decides about, so it saves nothing: what a trained selector loses
    against it is the selector's fault, the rest is the model's. Masked by contribution as the
    "down" masks of FloE (arXiv 2505.05950, figure 3), times the norm of the down column.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"weights"})

    rule: str = "top"
    fraction: float = 0.3
    mode: str = "late"
    prefill: str = "dense"

    def bind(self, geometry: Geometry, model: Path, weights: Weights | None = None) -> None:
        """Take the weights."""
        assert weights is not None
        self.weights = weights

    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor:
        """Return the neurons that contribute most."""
        scores = [contributions(hidden, **self.weights(Expert(layer, index))) for index in experts]
        return active(torch.stack(scores), self.rule, self.fraction)
