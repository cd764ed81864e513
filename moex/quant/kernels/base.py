"""What a kernel is: it computes a product with codes that lie as it wants them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from moex.quant.grouped import Grouped


class Kernel(ABC):
    """Codes [out, in] are stored as the kernel's own plane of bytes, and computed with as such."""

    name: str
    slow: frozenset[torch.dtype] = frozenset()
    """Activations that the reference is faster with: chosen for them only if it is asked for."""

    @property
    def layout(self) -> str:
        """Names the form of the plane: what is packed in one form cannot be read in another."""
        return self.name

    @abstractmethod
    def refusal(self, bits: int, group_size: int, shape: tuple[int, int], device: str) -> str:
        """Say why it cannot compute here with a weight of this shape; empty if it can."""

    def plane(self, shape: tuple[int, int], bits: int) -> tuple[int, ...]:
        """Shape of the plane of bytes of a weight [out, in]."""
        return (shape[0], shape[1] * bits // 8)

    @abstractmethod
    def store(self, codes: Tensor, bits: int) -> Tensor:
        """Return the plane of codes, uint8 [out, in]."""

    @abstractmethod
    def codes(self, plane: Tensor, bits: int, shape: tuple[int, int]) -> Tensor:
        """Return the codes, uint8 [out, in], of a plane."""

    @abstractmethod
    def matmul(self, x: Tensor, packed: Mapping[str, Tensor], quantizer: Grouped) -> Tensor:
        """Return `x @ weight.T` [..., out] in the dtype of `x` [..., in]."""
