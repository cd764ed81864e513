"""The reference kernel: dequantizes, then multiplies. Any bits, any shape, any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from moex.quant.kernels.base import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.grouped import Grouped

SLICES = {8: (8,), 4: (4,), 3: (2, 1), 2: (2,)}
"""Codes are split into slices whose bits divide a byte, without padding: 3 bits take 3."""


class Reference(Kernel):
    """A row of the plane is a row of codes, slice by slice; a byte holds distant codes."""

    name = "reference"
    rank = 1

    def refusal(self, bits: int, group_size: int, shape: tuple[int, int], device: str) -> str:
        """Supports rows that fill whole bytes."""
        least = 8 // min(SLICES[bits])
        return f"{bits} bits need rows of a multiple of {least}" if shape[1] % least else ""

    def store(self, codes: Tensor, bits: int) -> Tensor:
        """Return the plane of codes, uint8 [out, in]."""
        parts, low = [], bits
        for width in SLICES[bits]:
            low -= width
            part = (codes >> low) & (2**width - 1)
            pieces = part.chunk(8 // width, dim=1)
            byte = pieces[0].clone()
            for number, piece in enumerate(pieces[1:], 1):
                byte |= piece << (number * width)
            parts.append(byte)
        return torch.cat(parts, 1)

    def codes(self, plane: Tensor, bits: int, shape: tuple[int, int]) -> Tensor:
        """Return the codes, uint8 [out, in], of a plane."""
        out = torch.zeros(shape, dtype=torch.uint8, device=plane.device)
        start, low = 0, bits
        for width in SLICES[bits]:
            low -= width
            size = shape[1] * width // 8
            part = plane[:, start : start + size]
            for number, target in enumerate(out.split(size, dim=1)):
                target |= ((part >> (number * width)) & (2**width - 1)) << low
            start += size
        return out

    def matmul(self, x: Tensor, packed: Mapping[str, Tensor], quantizer: Grouped) -> Tensor:
        """Dequantize, then multiply."""
        return functional.linear(x, quantizer.unpack(packed, x.dtype))
