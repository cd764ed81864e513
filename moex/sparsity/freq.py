"""The neurons that were selected most often before: a hot list, the same for every token."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from moex.sparsity.active import active, check_rule
from moex.sparsity.base import NeuronSelector
from moex.trace.neurons import read_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moex.sparsity.base import Weights
    from moex.types import Geometry


@dataclass
class Freq(NeuronSelector):
    """Of every expert, the `fraction` of neurons that a recorded run selected in most visits.

    What the power law of activations gives without looking at the token (PowerInfer, arXiv
    2312.12456): experts become smaller ones. Ties go to the lower index.
    """

    counts: str | None = None
    fraction: float = 0.3
    mode: str = "late"
    prefill: str = "dense"

    def __post_init__(self) -> None:
        self.check()
        check_rule("top", self.fraction)

    def bind(self, geometry: Geometry, model: Path, weights: Weights | None = None) -> None:
        """Read the counts."""
        counts = torch.from_numpy(
            read_counts(self.counts, geometry, "sparsity.counts").astype("float64")
        )
        ranks = torch.arange(geometry.intermediate) / geometry.intermediate
        self.masks = active(counts - ranks, "top", self.fraction)
        self.device_bytes = self.masks.nbytes
        self.identity = hashlib.sha256(Path(str(self.counts)).read_bytes()).hexdigest()[:16]

    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor:
        """Return the hot neurons, the same for every token."""
        self.masks = self.masks.to(hidden.device)
        return self.masks[layer, list(experts)][:, None].expand(-1, len(hidden), -1)
