"""Base of selectors that take the same neurons for every token: static pruning."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.sparsity.active import active
from moex.sparsity.base import NeuronSelector

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.sparsity.base import Weights
    from moex.types import Geometry


@dataclass
class Fixed(NeuronSelector):
    """Keeps the best `fraction` of every expert's neurons; subclasses score them once.

    Raises:
        ValueError: a field outside its range.
    """

    fraction: float = 0.3
    mode: str = "late"
    prefill: str = "dense"

    @abstractmethod
    def scores(self, geometry: Geometry) -> Tensor:
        """Return a score of every neuron [layers, experts, intermediate]."""

    def bind(self, geometry: Geometry, model: Path, weights: Weights | None = None) -> None:
        """Score and select the neurons."""
        self.masks = active(self.scores(geometry), "top", self.fraction)
        self.device_bytes = self.masks.nbytes

    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor:
        """Return the same neurons for every token."""
        self.masks = self.masks.to(hidden.device)
        return self.masks[layer, list(experts)][:, None].expand(-1, len(hidden), -1)
