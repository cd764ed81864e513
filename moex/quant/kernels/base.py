"""The interface of a kernel: it computes products with codes in its own storage format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from moex.quant.grouped import Grouped


class Kernel(ABC):
    """Stores codes [out, in] as a plane of bytes in its own format, and computes with it."""

    name: str
    rank: ClassVar[int] = 0
    """`quant.kernel=auto` asks kernels of higher rank first; 0: only by its name."""
    slow: frozenset[torch.dtype] = frozenset()
    """Activation dtypes for which the reference is faster: `kernel=auto` skips this kernel."""

    @property
    def layout(self) -> str:
        """Name of the plane's storage format; one format cannot be read as another."""
        return self.name

    @abstractmethod
    def refusal(self, bits: int, group_size: int, shape: tuple[int, int], device: str) -> str:
        """Return why it cannot compute with such a weight on the device; empty if it can."""

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
