"""A trained selector of neurons, small beside the experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from moex import trained
from moex.sparsity import lowrank
from moex.sparsity.active import active, check_rule
from moex.sparsity.base import NeuronSelector

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.sparsity.base import Weights
    from moex.types import Geometry

KIND = "corm"


@dataclass
class Corm(NeuronSelector):
    """Select by a low-rank, four-bit estimate of every neuron's contribution.

    CORM-like: the text of CORM (OpenReview qN7PEomATC) is not public, this is our design. An
    estimate from the layer's own state ("late") or from the one before ("predicted"), made in
    float32, in float64 for a float64 model.

    Args:
        rule: "top": the best `fraction` of every token; "quantile": above the expert's threshold;
            "energy": the fewest with that share of the estimated squares.
        fraction: a share in (0, 1]; 1 selects all.
        mode: "late", "predicted" or "exact".
        prefill: "dense" or "masked".
        checkpoint: a file; None for the one beside the model or in the cache folder.

    Raises:
        ValueError: a field outside its range.
    """

    rule: str = "top"
    fraction: float = 0.3
    mode: str = "late"
    prefill: str = "dense"
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        self.check()
        check_rule(self.rule, self.fraction)

    def bind(self, geometry: Geometry, model: Path, weights: Weights | None = None) -> None:
        """Read the checkpoint of this model."""
        found = trained.read(KIND, geometry, model, self.checkpoint, "sparsity")
        self.factors: Any = lowrank.layers(geometry, found.about["rank"], found.about["width"])
        self.factors.load_state_dict(found.tensors)
        self.factors.requires_grad_(False)
        self.identity = found.identity
        state = self.factors.state_dict().values()
        self.device_bytes = sum(tensor.nbytes for tensor in state)

    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor | None:
        """Return the neurons estimated to contribute most."""
        return self._select(hidden, layer, experts, early=bool(self.ahead(layer)))

    def expect(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor | None:
        """Guess the same a layer early."""
        return self._select(hidden, layer, experts, early=True)

    @torch.no_grad()
    def _select(
        self, hidden: Tensor, layer: int, experts: Sequence[int], early: bool
    ) -> Tensor | None:
        if self.mode == "exact" or self.fraction == 1:
            return None
        kind = torch.promote_types(hidden.dtype, torch.float32)
        factors = self.factors[layer]
        if (factors.code.dtype, factors.code.device) != (kind, hidden.device):
            factors.to(hidden.device, kind)
        scores = factors.estimate(factors.encode(hidden.to(kind), early), experts)
        place = max(self.fraction * lowrank.GRID - 1, 0.0)
        low, share = int(place), place % 1
        cuts = factors.cuts[int(early), list(experts)]
        cut = torch.lerp(cuts[:, low], cuts[:, min(low + 1, lowrank.GRID - 1)], share)
        return active(scores, self.rule, self.fraction, cut[:, None, None])
