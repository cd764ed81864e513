"""The compiled loops of the int4 kernel. Each compiles when it is first called."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit

from moex.quant import scales

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@njit(nogil=True)
def _expand(scale: Any, zero: Any, scale_meta: Any, zero_meta: Any, out: Any) -> None:
    size = len(scale) // len(scale_meta)
    factor, shift = zero_meta[0, 0], zero_meta[0, 1]
    for group in range(len(scale_meta)):
        step, origin = scale_meta[group, 0], scale_meta[group, 1]
        for i in range(group * size, (group + 1) * size):
            value = (np.float32(scale[i]) - origin) * step
            out[i, 0] = value
            out[i, 1] = (np.float32(8) - (np.float32(zero[i]) - shift) * factor) * value


def table(packed: Mapping[str, Tensor]) -> Tensor:
    """Return (scale, offset) of `(code - 8) * scale + offset`, float32 [groups, out, 2]."""
    if "scale_meta" not in packed:
        scale, zero = scales.read(packed)
        return torch.stack((scale, (8 - zero) * scale), -1)
    out = torch.empty(*packed["scale"].shape, 2)
    codes = packed["scale"].view(-1).numpy(), packed["zero"].view(-1).numpy()
    metas = packed["scale_meta"].numpy(), packed["zero_meta"].numpy()
    _expand(codes[0], codes[1], metas[0], metas[1], out.view(-1, 2).numpy())
    return out


@njit(nogil=True)
def _weights(plane: Any, scale: Any, offset: Any, size: int, first: int, out: Any) -> None:
    """Fill columns of out [in, out], bfloat16 as its bits, from blocks of the plane."""
    blocks, columns, half = plane.shape
    values = np.empty(2 * half, np.float32)
    bits = values.view(np.uint32)
    for block in range(blocks):
        at = (first + block) * 2 * half
        for k in range(columns):
            row, s, o = plane[block, k], scale[k // size], offset[k // size]
            for i in range(half):
                values[i] = np.float32(np.int32(row[i] & 15)) * s[at + i] + o[at + i]
            for i in range(half):
                high = at + half + i
                values[half + i] = np.float32(np.int32(row[i] >> 4)) * s[high] + o[high]
            line = out[k, at : at + 2 * half]
            for i in range(2 * half):
                value = bits[i]  # rounded to nearest, ties to even
                odd = (value >> np.uint32(16)) & np.uint32(1)
                line[i] = (value + np.uint32(0x7FFF) + odd) >> np.uint32(16)


def dequantize(plane: Tensor, scale_and_offset: Tensor, block: int) -> Tensor:
    """Return the weight's transpose [in, out] in bfloat16, of a plane in blocks of rows."""
    rows, columns = plane.shape[0], 2 * plane.shape[1]
    scale = scale_and_offset[..., 0].contiguous()
    offset = scale_and_offset[..., 1] - 8 * scale
    out = torch.empty(columns, rows, dtype=torch.bfloat16)
    folded, bits = plane.view(rows // block, columns, block // 2), out.view(torch.uint16).numpy()
    size = columns // len(scale)
    threads = torch.get_num_threads()
    share = -(-len(folded) // threads)

    def part(first: int) -> None:
        blocks = folded[first : first + share].numpy()
        _weights(blocks, scale.numpy(), offset.numpy(), size, first, bits)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(0, len(folded), share)))
    return out
