"""One kind of weight alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.quant.base import Scheme
from moex.quant.mixed import Mixed

if TYPE_CHECKING:
    import torch

    from moex.quant.base import Quantizer

KINDS = ("gate_up", "down", "attention", "head")


@dataclass
class Only(Scheme):
    """Quantize one kind of weight and keep 16 bits for all others: what each kind costs.

    Args:
        kind: gate_up, down, attention or head, as `Mixed` has them.
        quantizer: of the weights of this kind.

    Raises:
        ValueError: there is no such kind.
    """

    kind: str
    quantizer: Quantizer

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"quant.kind={self.kind}: expected one of {', '.join(KINDS)}; try quant.kind=down"
            )

    def of(self, name: str) -> Quantizer | None:
        """Return the quantizer of a weight."""
        return Mixed(**{self.kind: self.quantizer}).of(name)

    def bind(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Tell it where products will be computed, and in what."""
        self.quantizer.bind(device, dtype)
