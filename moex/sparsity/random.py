"""Neurons drawn at random: the control that every selector has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moex.sparsity.active import active, check_rule
from moex.sparsity.base import NeuronSelector

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.sparsity.base import Weights
    from moex.types import Geometry


@dataclass
class Random(NeuronSelector):
    """Every expert has a fixed random order of neurons; all tokens get the first of it.

    It costs no memory worth counting and is kept as a floor: same bytes, no knowledge.
    """

    fraction: float = 0.3
    seed: int = 0
    mode: str = "late"
    prefill: str = "dense"

    def __post_init__(self) -> None:
        self.check()
        check_rule("top", self.fraction)

    def bind(self, geometry: Geometry, model: Path, weights: Weights | None = None) -> None:
        """Draw."""
        draw = torch.Generator().manual_seed(self.seed)
        shape = (geometry.layers, geometry.experts, geometry.intermediate)
        self.masks = active(torch.rand(shape, generator=draw), "top", self.fraction)

    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor:
        """Return the same neurons for every token."""
        chosen = self.masks[layer, list(experts)].to(hidden.device)
        return chosen[:, None].expand(-1, len(hidden), -1)
