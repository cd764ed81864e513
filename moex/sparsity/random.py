"""Neurons drawn at random: the control that every selector has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moex.sparsity.fixed import Fixed

if TYPE_CHECKING:
    from torch import Tensor

    from moex.types import Geometry


@dataclass
class Random(Fixed):
    """Every expert has a fixed random order of neurons; all tokens get the first of it.

    Kept as a floor: same bytes, no knowledge.
    """

    seed: int = 0

    def scores(self, geometry: Geometry) -> Tensor:
        """Draw."""
        draw = torch.Generator().manual_seed(self.seed)
        shape = (geometry.layers, geometry.experts, geometry.intermediate)
        return torch.rand(shape, generator=draw)
