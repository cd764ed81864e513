"""Selects neurons with a resident low-bit copy of the up matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from moex.predictors.packed_matmul import FourBits
from moex.sparsity.active import active
from moex.sparsity.base import NeuronSelector
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.sparsity.base import Weights
    from moex.types import Geometry


@dataclass
class UpReuse(NeuronSelector):
    """Select by `|up|`, which a copy of the up matrices in four bits estimates, without training.

    After FloE (arXiv 2505.05950), whose copy has two bits and is also used to compute; ours only
    selects, has one scale per neuron, and weighs with the norm of the down column if `weigh`.

    Args:
        rule: "top": the best `fraction` of every token; "energy": the fewest with that share.
        fraction: a share in (0, 1].
        weigh: multiply with the norm of the down column.
        mode: "late", "predicted" (the state of the layer before) or "exact".
        prefill: "dense" or "masked".

    Raises:
        ValueError: a field outside its range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"weights"})

    rule: str = "top"
    fraction: float = 0.3
    weigh: bool = True
    mode: str = "late"
    prefill: str = "dense"

    def bind(self, geometry: Geometry, model: Path, weights: Weights | None = None) -> None:
        """Copy the up matrices."""
        assert weights is not None
        table: dict[str, Tensor] = {}
        self.neurons, self.ups, self.scales = geometry.intermediate, [], []
        for layer in range(geometry.layers):
            levels, scales = [], []
            for index in range(geometry.experts):
                expert = weights(Expert(layer, index))
                up = expert["up"].float().cpu()
                scale = up.abs().amax(1).clamp(min=1e-30) / 7
                levels.append(((up / scale[:, None]).round() + 8).to(torch.uint8))
                norms = expert["down"].float().cpu().norm(dim=1) if self.weigh else 1.0
                scales.append((scale * norms).bfloat16())
            self.ups.append(FourBits(torch.stack(levels), table))
            self.scales.append(torch.stack(scales))
        planes = sum(plane.nbytes for four in self.ups for plane in four.planes)
        held = sum(tensor.nbytes for tensor in (*self.scales, *table.values()))
        self.device_bytes = planes + held

    @torch.no_grad()
    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor:
        """Return the neurons with the largest estimate; independent of the rest of the batch."""
        four = self.ups[layer]
        if self.scales[layer].device != hidden.device:
            four.to(hidden.device)
            self.scales[layer] = self.scales[layer].to(hidden.device)
        state = functional.pad(hidden.bfloat16(), (0, four.inputs - hidden.shape[1]))
        ups = torch.stack([four(state, expert)[:, : self.neurons] for expert in experts])
        scores = ups.double().abs() * self.scales[layer][list(experts)][:, None]
        return active(scores, self.rule, self.fraction)
