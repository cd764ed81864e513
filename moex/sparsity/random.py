"""Neurons chosen uniformly at random: the baseline that every selector has to beat."""

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
    """Each expert keeps a fixed random subset of neurons, the same for all tokens.

    A lower bound: the same bytes without any information.
    """

    seed: int = 0

    def scores(self, geometry: Geometry) -> Tensor:
        """Return random scores."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (geometry.layers, geometry.experts, geometry.intermediate)
        return torch.rand(shape, generator=generator)
