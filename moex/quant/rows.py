"""A row on its own: codes, scales, zeros and what those stand for, in one run of bytes.

For neurons that are moved one by one (layout `bundles`): gate row, up row and down column, each
quantized along the hidden dimension, with scales of scales for every row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moex.quant import scales
from moex.quant.grouped import dequantize
from moex.quant.kernels.reference import KERNEL

if TYPE_CHECKING:
    from torch import Tensor

    from moex.quant.grouped import Grouped

META = 16
"""Bytes of a row's four numbers in float32: scale and zero of its scales, and of its zeros."""


def row_bytes(quantizer: Grouped, columns: int) -> int:
    """Bytes of a packed row of so many weights."""
    quantizer.tensors((64, columns))  # complains if its groups do not divide it
    return columns * quantizer.bits // 8 + 2 * (columns // quantizer.group_size) + META


def pack_rows(quantizer: Grouped, weight: Tensor) -> Tensor:
    """Quantize rows [rows, columns], each for itself: uint8 [rows, row_bytes]."""
    codes, scale, zero = quantizer.quantize(weight)
    parts = [KERNEL.store(codes, quantizer.bits)]
    metas = []
    for values, unit in ((scale, scales.UNIT), (zero, 1.0)):
        found, meta = scales.quantize(values * unit, values.shape[1])
        meta[:, 0] /= unit
        parts.append(found)
        metas.append(meta)
    return torch.cat([*parts, torch.cat(metas, 1).view(torch.uint8)], 1)


def unpack_rows(quantizer: Grouped, rows: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """Return the weights [rows, columns] that packed rows stand for."""
    groups, plane = columns // quantizer.group_size, columns * quantizer.bits // 8
    sizes = (plane, groups, groups, META)
    bits, scale, zero, meta = rows.split(sizes, 1)
    numbers = meta.contiguous().view(torch.float32)
    scale = (scale - numbers[:, 1:2]) * numbers[:, 0:1]
    zero = (zero - numbers[:, 3:4]) * numbers[:, 2:3]
    codes = KERNEL.codes(bits, quantizer.bits, (len(rows), columns))
    return dequantize(codes, scale.t(), zero.t(), dtype)
