"""A different quantizer for each kind of weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.quant.base import EXPERTS, HEAD, Quantizer, Scheme

if TYPE_CHECKING:
    import torch


def kind_of(name: str) -> str:
    """The kind of a weight, by its name: gate_up, down, attention or head."""
    if name.startswith(EXPERTS):
        return "down" if "down" in name else "gate_up"
    return "head" if name == HEAD else "attention"


@dataclass
class Mixed(Scheme):
    """A quantizer for each kind of weight; None keeps 16 bits.

    Down projections lose most (FloE, ICML 2025: down in 2 bits nearly triples the perplexity of
    Mixtral, gate or up adds a fifth), attention is small and read for every token.

    Args:
        gate_up: for the experts' gate and up projections, which are one matrix.
        down: for the experts' down projections.
        attention: for every linear layer outside the experts.
        head: for the output head.

    Raises:
        ValueError: a value is not a quantizer.
    """

    gate_up: Quantizer | None = None
    down: Quantizer | None = None
    attention: Quantizer | None = None
    head: Quantizer | None = None

    def __post_init__(self) -> None:
        for name, given in vars(self).items():
            if not isinstance(given, Quantizer | None):
                raise ValueError(
                    f"quant.{name}={given}: expected a quantizer or null (16 bits); "
                    f"try quant.{name}=null"
                )
            if given is not None:
                given.key = f"quant.{name}"

    def of(self, name: str) -> Quantizer | None:
        """Return the quantizer of a weight."""
        quantizer: Quantizer | None = getattr(self, kind_of(name))
        return quantizer

    def bind(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Set the device and dtype of the products for all quantizers."""
        for quantizer in (self.gate_up, self.down, self.attention, self.head):
            if quantizer is not None:
                quantizer.bind(device, dtype)
