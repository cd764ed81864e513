"""Second-level quantization of scales and zeros to 8 bits, as in HQQ and Eliseev & Mazur 2023.

Both are [groups, out], the order that the kernels need. At most `scale_group` scales share a
second-level scale and zero; all zeros share one. If `scale_group` does not divide the number of
scales, they are split as evenly as possible: 3,072 scales and `scale_group=255` give 13 groups, 12
of 237 and one of 228. The arithmetic is that of hqq's `Quantizer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.base import Spec

UNIT = 4096.0
"""Scales are multiplied by this first: hqq treats a range below 1e-4 as constant, and the scales of
ordinary weights have such a range. A power of two, so nothing is rounded."""


def tensors(grid: tuple[int, int], bits: int, group: int) -> Spec:
    """Name, shape and dtype of the tensors that `pack` makes of scales and zeros [groups, out]."""
    if bits == 16:
        return {"scale": (grid, torch.float16), "zero": (grid, torch.float16)}
    count = grid[0] * grid[1]
    return {
        "scale": (grid, torch.uint8),
        "zero": (grid, torch.uint8),
        "scale_meta": ((-(-count // group), 2), torch.float32),
        "zero_meta": ((1, 2), torch.float32),
    }


def pack(scale: Tensor, zero: Tensor, bits: int, group: int) -> dict[str, Tensor]:
    """Quantize scales and zeros [groups, out], float32."""
    if bits == 16:
        return {"scale": scale.half().contiguous(), "zero": zero.half().contiguous()}
    count = scale.numel()
    packed = {}
    packed["scale"], packed["scale_meta"] = quantize(scale * UNIT, group)
    packed["zero"], packed["zero_meta"] = quantize(zero, count)
    packed["scale_meta"][:, 0] /= UNIT
    return packed


def quantize(values: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Quantize values in groups of at most `group`: codes, and each group's (scale, zero)."""
    count = values.numel()
    grouped = _split(values.contiguous().view(-1), -(-count // group))
    codes, scale, zero = round_to_nearest(grouped, 8)
    return codes.to(torch.uint8).view(-1)[:count].view(values.shape), torch.cat((scale, zero), 1)


def _split(values: Tensor, groups: int) -> Tensor:
    """Split values into equal groups [groups, size]; the last is padded with its last value."""
    lacking = -len(values) % groups
    if lacking:
        values = torch.cat((values, values[-1:].expand(lacking)))
    return values.view(groups, -1)


def read(packed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return scales and zeros [groups, out] in float32."""
    if "scale_meta" not in packed:
        return packed["scale"].float(), packed["zero"].float()
    return _read(packed, "scale"), _read(packed, "zero")


def _read(packed: Mapping[str, Tensor], name: str) -> Tensor:
    codes, meta = packed[name], packed[name + "_meta"]
    values = _split(codes.reshape(-1), len(meta)).float()
    values.sub_(meta[:, 1:]).mul_(meta[:, :1])
    return values.view(-1)[: codes.numel()].view(codes.shape)


def round_to_nearest(groups: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize groups [n, size]: codes, scales and zeros [n, 1]; the arithmetic is hqq's.

    A constant group (range up to 1e-4) gets the scale 1: its zero holds its value.
    """
    low, high = groups.aminmax(dim=1, keepdim=True)
    width, most = high - low, 2**bits - 1
    factor = torch.where(width <= 1e-4, 1.0, most / width).clamp_(max=2e4)
    zero = -low * factor
    codes = torch.mul(groups, factor).add_(zero).round_().clamp_(0, most)
    return codes, 1.0 / factor, zero
