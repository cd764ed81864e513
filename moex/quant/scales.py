"""Scales and zeros, quantized themselves: 8 bits each, as HQQ and Eliseev & Mazur 2023 have them.

Both are [groups, out]: the order in which kernels want them. Scales get a scale and a zero of their
own for every `scale_group` of them, zeros one for all. All in the arithmetic of hqq's `Quantizer`.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.base import Spec

UNIT = 4096.0
"""Scales are quantized as multiples of 1/UNIT: hqq takes anything narrower than 1e-4 for flat, and
scales of ordinary weights are. A power of two, so nothing is rounded."""


def tensors(grid: tuple[int, int], bits: int, group: int) -> Spec:
    """Name, shape and dtype of what `pack` makes of scales and zeros [groups, out]."""
    if bits == 16:
        return {"scale": (grid, torch.float16), "zero": (grid, torch.float16)}
    count = grid[0] * grid[1]
    return {
        "scale": (grid, torch.uint8),
        "zero": (grid, torch.uint8),
        "scale_meta": ((count // gcd(group, count), 2), torch.float32),
        "zero_meta": ((1, 2), torch.float32),
    }


def pack(scale: Tensor, zero: Tensor, bits: int, group: int) -> dict[str, Tensor]:
    """Quantize scales and zeros [groups, out], float32."""
    if bits == 16:
        return {"scale": scale.half().contiguous(), "zero": zero.half().contiguous()}
    count = scale.numel()
    packed = {}
    packed["scale"], packed["scale_meta"] = _quantize(scale * UNIT, gcd(group, count))
    packed["zero"], packed["zero_meta"] = _quantize(zero, count)
    packed["scale_meta"][:, 0] /= UNIT
    return packed


def _quantize(values: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Codes of the values, in groups of consecutive ones; and each group's (scale, zero)."""
    from moex.quant.grouped import round_to_nearest

    codes, scale, zero = round_to_nearest(values.contiguous().view(-1, group), 8)
    return codes.to(torch.uint8).view(values.shape), torch.cat((scale, zero), 1)


def read(packed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return scales and zeros [groups, out] in float32."""
    if "scale_meta" not in packed:
        return packed["scale"].float(), packed["zero"].float()
    return _dequantize(packed, "scale"), _dequantize(packed, "zero")


def _dequantize(packed: Mapping[str, Tensor], name: str) -> Tensor:
    codes, meta = packed[name], packed[name + "_meta"]
    values = codes.reshape(len(meta), -1).float()
    return values.sub_(meta[:, 1:]).mul_(meta[:, :1]).view(codes.shape)
