"""Products with packed rows on a CPU: a row is decoded into the processor's cache, and used there.

Numba loops, each compiled at its first call. A decoder writes the numbers of one row, float32, as
the reference in `gguf.py` and `mxfp4.py` does; its sums are in float32, so products differ from the
reference's by rounding only.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit

from moex.quant.loops import shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LARGE = 1 << 16
"""Bytes of a weight from which several threads share it."""
DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


@cache
def halves() -> Any:
    """All 16-bit floats by their bits, in float32."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


@njit(nogil=True)
def _half(row: Any, at: int, half: Any) -> Any:
    return half[np.int32(row[at]) | np.int32(row[at + 1]) << 8]


@njit(nogil=True)
def _q4_0(row: Any, half: Any, out: Any) -> None:
    for block in range(len(row) // 18):
        d, codes = _half(row, 18 * block, half), row[18 * block + 2 : 18 * block + 18]
        low, high = out[32 * block : 32 * block + 16], out[32 * block + 16 : 32 * block + 32]
        for i in range(16):
            low[i] = d * np.float32(np.int32(codes[i] & 15) - 8)
            high[i] = d * np.float32(np.int32(codes[i] >> 4) - 8)


@njit(nogil=True)
def _q8_0(row: Any, half: Any, out: Any) -> None:
    for block in range(len(row) // 34):
        d = _half(row, 34 * block, half)
        codes = row[34 * block + 2 : 34 * block + 34].view(np.int8)
        line = out[32 * block : 32 * block + 32]
        for i in range(32):
            line[i] = d * np.float32(codes[i])


@njit(nogil=True)
def _group(block: Any, number: int) -> tuple[Any, Any]:
    """Scale and offset, 6 bits each, of a group of a K block: see `gguf._scales`."""
    packed = block[4:16]
    if number < 4:
        return packed[number] & 63, packed[number + 4] & 63
    last = packed[number + 4]
    scale = last & 15 | packed[number - 4] >> 6 << 4
    return scale, last >> 4 | packed[number] >> 6 << 4


@njit(nogil=True)
def _q4_k(row: Any, half: Any, out: Any) -> None:
    for number in range(len(row) // 144):
        block = row[144 * number : 144 * number + 144]
        d, least = _half(block, 0, half), _half(block, 2, half)
        for pair in range(4):
            s0, m0 = _group(block, 2 * pair)
            s1, m1 = _group(block, 2 * pair + 1)
            d0, o0 = d * np.float32(s0), least * np.float32(m0)
            d1, o1 = d * np.float32(s1), least * np.float32(m1)
            codes = block[16 + 32 * pair : 48 + 32 * pair]
            line = out[256 * number + 64 * pair : 256 * number + 64 * pair + 64]
            low, high = line[:32], line[32:]
            for i in range(32):
                low[i] = d0 * np.float32(codes[i] & 15) - o0
                high[i] = d1 * np.float32(codes[i] >> 4) - o1


@njit(nogil=True)
def _q6_k(row: Any, half: Any, out: Any) -> None:
    for number in range(len(row) // 210):
        block = row[210 * number : 210 * number + 210]
        d, scales = _half(block, 208, half), block[192:208].view(np.int8)
        for part in range(2):
            low, high = block[64 * part : 64 * part + 64], block[128 + 32 * part : 160 + 32 * part]
            for group in range(8):  # of 16 numbers
                quarter, at = group // 2, 16 * (group % 2)
                factor = d * np.float32(scales[8 * part + group])
                first = 32 * (quarter % 2) + at
                codes, bits = low[first : first + 16], high[at : at + 16]
                start = 256 * number + 128 * part + 16 * group
                line = out[start : start + 16]
                for i in range(16):
                    nibble = codes[i] >> 4 if quarter > 1 else codes[i] & 15
                    code = np.int32(nibble) | np.int32(bits[i] >> 2 * quarter & 3) << 4
                    line[i] = factor * np.float32(code - 32)


@njit(nogil=True)
def _power(byte: Any) -> Any:
    """Half of two to the power of a byte less 127."""
    return np.float32(2.0 ** (np.int32(byte) - 128))


@njit(nogil=True)
def _mxfp4(row: Any, half: Any, out: Any) -> None:
    for block in range(len(row) // 17):
        d, codes = _power(row[17 * block]), row[17 * block + 1 : 17 * block + 17]
        low, high = out[32 * block : 32 * block + 16], out[32 * block + 16 : 32 * block + 32]
        for i in range(16):
            low[i], high[i] = d * DOUBLED[codes[i] & 15], d * DOUBLED[codes[i] >> 4]


DECODERS = {"Q4_0": _q4_0, "Q8_0": _q8_0, "Q4_K": _q4_k, "Q6_K": _q6_k, "MXFP4": _mxfp4}
"""By block type."""


@cache
def _product(decode: Any) -> Callable[..., None]:
    """The compiled loop over rows that uses a decoder."""

    @njit(nogil=True, fastmath={"reassoc", "contract"})
    def loop(rows: Any, half: Any, x: Any, first: int, last: int, out: Any) -> None:
        line = np.empty(x.shape[1], np.float32)
        for row in range(first, last):
            decode(rows[row], half, line)
            for token in range(len(x)):
                total, values = np.float32(0), x[token]
                for i in range(len(line)):
                    total += line[i] * values[i]
                out[row, token] = total

    compiled: Callable[..., None] = loop
    return compiled


def product(x: Tensor, rows: Tensor, kind: str) -> Tensor:
    """Return `x @ weight.T` [tokens, out] in float32.

    Args:
        x: tokens [tokens, in].
        rows: a packed weight, uint8 [out, bytes of a row].
        kind: its block type, one of `DECODERS`.
    """
    values, packed = x.float().contiguous().numpy(), rows.contiguous().numpy()
    out = torch.empty(len(rows), len(x))
    loop, half, to = _product(DECODERS[kind]), halves(), out.numpy()

    def part(first: int, last: int) -> None:
        loop(packed, half, values, first, last, to)

    if rows.numel() < LARGE:
        part(0, len(rows))
    else:
        shared(part, len(rows), torch.get_num_threads())
    return out.t()
