"""Quantizes a single kind of weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.quant.base import Quantizer, Scheme
from moex.quant.mixed import kind_of

if TYPE_CHECKING:
    import torch

KINDS = ("gate_up", "down", "attention", "head")


@dataclass
class Only(Scheme):
    """Quantizes one kind of weight and keeps 16 bits for all others, to measure its cost.

    Args:
        kind: gate_up, down, attention or head, as in `Mixed`.
        quantizer: the quantizer of this kind.

    Raises:
        ValueError: an unknown kind, or the quantizer is not one.
    """

    kind: str
    quantizer: Quantizer

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"quant.kind={self.kind}: expected one of {', '.join(KINDS)}; try quant.kind=down"
            )
        if not isinstance(self.quantizer, Quantizer):
            raise ValueError(
                f"quant.quantizer={self.quantizer}: expected a quantizer; for none try quant=none"
            )
        self.quantizer.key = "quant.quantizer"

    def of(self, name: str) -> Quantizer | None:
        """Return the quantizer of a weight."""
        return self.quantizer if kind_of(name) == self.kind else None

    def bind(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Set the device and dtype of the products."""
        self.quantizer.bind(device, dtype)
