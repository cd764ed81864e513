"""A quantization kernel of another package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from moex.quant.kernels.base import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.grouped import Grouped


class Bytewise(Kernel):
    """A code in a byte of its own, whatever its bits: larger, and nothing to unpack."""

    name = "bytewise"

    def refusal(self, bits: int, group_size: int, shape: tuple[int, int], device: str) -> str:
        """Supports everything."""
        return ""

    def plane(self, shape: tuple[int, int], bits: int) -> tuple[int, ...]:
        """A byte a weight."""
        return shape

    def store(self, codes: Tensor, bits: int) -> Tensor:
        """Return the codes."""
        return codes

    def codes(self, plane: Tensor, bits: int, shape: tuple[int, int]) -> Tensor:
        """Return the plane."""
        return plane

    def matmul(self, x: Tensor, packed: Mapping[str, Tensor], quantizer: Grouped) -> Tensor:
        """Dequantize, then multiply."""
        return functional.linear(x, quantizer.unpack(packed, x.dtype))
