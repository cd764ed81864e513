"""A linear layer whose weight is packed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from moex.quant.base import Packed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.base import Quantizer


class QuantLinear(nn.Module):
    """Replaces `nn.Linear`; only the packed tensors are in memory.

    Args:
        quantizer: the quantizer of the weight.
        tensors: the packed weight.
        bias: [out], or None.
        dtype: dtype of the original weight.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        tensors: Mapping[str, Tensor],
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.quantizer, self.names, self.dtype = quantizer, tuple(tensors), dtype
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)
        self.bias: Tensor | None
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x @ weight.T + bias`; under autocast computed in the weight's dtype."""
        device = x.device.type
        if torch.is_autocast_enabled(device):  # autocast affects only the reference kernel
            with torch.autocast(device, enabled=False):
                return self.forward(x.to(self.dtype)).to(torch.get_autocast_dtype(device))
        out = self._packed().matmul(x)
        return out if self.bias is None else out + self.bias

    @property
    def weight(self) -> Tensor:
        """The dequantized weight: for code that reads it, not for computing."""
        return self._packed().unpack(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed tensors."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def _packed(self) -> Packed:
        return Packed(self.quantizer, {name: getattr(self, name) for name in self.names})
