"""The most frequently selected neurons of a recorded run, the same for every token."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from moex.sparsity.fixed import Fixed
from moex.sparsity.neuron_counts import read_counts

if TYPE_CHECKING:
    from torch import Tensor

    from moex.types import Geometry


@dataclass
class Freq(Fixed):
    """Of every expert, the `fraction` of neurons that a recorded run selected most often.

    Exploits the power law of activations, independent of the token (PowerInfer, arXiv
    2312.12456). Ties go to the lower index.
    """

    counts: str | None = None

    def scores(self, geometry: Geometry) -> Tensor:
        """Read the counts of the recorded run."""
        counts = read_counts(self.counts, geometry, "sparsity.counts").astype("float64")
        content = Path(str(self.counts)).expanduser().read_bytes()
        self.identity = hashlib.sha256(content).hexdigest()[:16]
        ranks = torch.arange(geometry.intermediate) / geometry.intermediate
        return torch.from_numpy(counts) - ranks
