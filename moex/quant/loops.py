"""Numba loops of the int4 kernel, each compiled at its first call.

Inner loops run over slices that begin at zero, so that the compiler sees no negative index.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit

from moex.quant import scales

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

LARGE = 1 << 17
"""Number of scales from which several threads expand them."""
SLAB = 128
"""Tokens that are multiplied at once."""
FOUND = 1 << 17
"""Maximum integers per thread that are not yet accumulated: they fit its cache."""


@njit(nogil=True)
def _expand(
    scale: Any, zero: Any, metas: Any, zero_meta: Any, first: int, size: int, out: Any, pairs: Any
) -> None:
    """Fill (scale, offset): float32 in `out` [2, count], or bfloat16 as bits in `pairs` [count]."""
    factor, shift = zero_meta[0, 0], zero_meta[0, 1]
    both = np.empty((2, size), np.float32)
    values, offsets = both[0], both[1]
    low, high = values.view(np.uint32), offsets.view(np.uint32)
    one, half, bits = np.uint32(1), np.uint32(0x7FFF), np.uint32(16)
    for group in range(first, first + len(metas)):
        step, origin = metas[group - first, 0], metas[group - first, 1]
        at, end = group * size, (group + 1) * size
        codes, zeros = scale[at:end], zero[at:end]
        count = len(codes)  # the last group may be smaller
        for i in range(count):
            values[i] = (np.float32(codes[i]) - origin) * step
            offsets[i] = (np.float32(8) - (np.float32(zeros[i]) - shift) * factor) * values[i]
        if len(pairs):
            line = pairs[at:end]
            for i in range(count):  # rounded to nearest, ties to even
                a = (low[i] + half + ((low[i] >> bits) & one)) >> bits
                b = (high[i] + half + ((high[i] >> bits) & one)) >> bits
                line[i] = a | (b << bits)
        else:
            out[0, at:end], out[1, at:end] = values[:count], offsets[:count]


def table(packed: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Return (scale, offset) of `(code - 8) * scale + offset`, [groups, out, 2]."""
    if dtype != torch.bfloat16 or "scale_meta" not in packed:
        return numbers(packed).movedim(0, -1).to(dtype).contiguous()
    shape = packed["scale"].shape
    pairs = torch.empty(shape, dtype=torch.int32)
    _expanded(packed, torch.empty(2, 0), pairs)
    return pairs.view(torch.bfloat16).view(*shape, 2)


def numbers(packed: Mapping[str, Tensor]) -> Tensor:
    """Return the same scales and offsets in float32, as two planes [2, groups, out]."""
    if "scale_meta" not in packed:
        scale, zero = scales.read(packed)
        return torch.stack((scale, (8 - zero) * scale))
    out = torch.empty(2, *packed["scale"].shape)
    _expanded(packed, out.view(2, -1), torch.empty(0, dtype=torch.int32))
    return out


def _expanded(packed: Mapping[str, Tensor], out: Tensor, pairs: Tensor) -> None:
    codes = packed["scale"].view(-1).numpy(), packed["zero"].view(-1).numpy()
    metas, zero_meta = packed["scale_meta"].numpy(), packed["zero_meta"].numpy()
    size, to = (
        -(-len(codes[0]) // len(metas)),
        (out.numpy(), pairs.view(-1).view(torch.uint32).numpy()),
    )

    def part(first: int, last: int) -> None:
        _expand(*codes, metas[first:last], zero_meta, first, size, *to)

    if len(codes[0]) < LARGE:
        _expand(*codes, metas, zero_meta, 0, size, *to)
    else:
        shared(part, len(metas), torch.get_num_threads())


@njit(nogil=True)
def _digits(values: Any, unit: Any, first: int, last: int, digits: Any, sums: Any) -> None:
    """Convert tokens to fixed point: digits [groups, 2 * tokens, size], and sums of groups."""
    groups, twice, size = digits.shape
    whole = np.empty(size, np.int32)
    for token in range(first, last):
        factor = np.float32(1) / unit[token, 0]
        for group in range(groups):
            line = values[token, group * size : (group + 1) * size]
            high, low = digits[group, token], digits[group, twice // 2 + token]
            total = np.int32(0)
            for i in range(size):
                whole[i] = np.int32(np.floor(line[i] * factor + np.float32(0.5)))
                total += whole[i]
            for i in range(size):
                top = (whole[i] + np.int32(128)) >> np.int32(8)
                high[i], low[i] = top, whole[i] - (top << np.int32(8))
            sums[token, group] = total


@njit(nogil=True)
def _levels(plane: Any, first: int, start: int, out: Any) -> None:
    """Unpack blocks of the plane into out [inputs, rows], int8 from -8 to 7."""
    half = plane.shape[2]
    for block in range(out.shape[1] // (2 * half)):
        at = 2 * half * block
        for k in range(len(out)):
            row = plane[first + block, start + k]
            low, high = out[k, at : at + half], out[k, at + half : at + 2 * half]
            for i in range(half):
                low[i] = np.int8(row[i] & np.uint8(15)) - np.int8(8)
                high[i] = np.int8(row[i] >> np.uint8(4)) - np.int8(8)


@njit(nogil=True)
def _add(found: Any, scale: Any, at: int, out: Any) -> None:
    """Add the products of both digits [2 * tokens, rows] to out [tokens, rows] from row `at`."""
    tokens, width = len(out), found.shape[1]
    factors = scale[at : at + width]
    for token in range(tokens):
        high, low, line = found[token], found[tokens + token], out[token, at : at + width]
        for i in range(width):
            line[i] += np.float32(high[i] * np.int32(256) + low[i]) * factors[i]


def product(tokens: Tensor, packed: Mapping[str, Tensor], block: int) -> Tensor:
    """Return `tokens @ weight.T` [tokens, out], of a plane in blocks of rows, in integers.

    A token is converted to fixed point, two eight-bit digits relative to its largest value: finer
    than bfloat16 for large values. Codes and digits are multiplied exactly, group by group.
    """
    plane, (scale, offset) = packed["codes"], numbers(packed)
    slabs = [_product(slab, plane, scale, offset, block) for slab in tokens.split(SLAB)]
    return torch.cat(slabs).to(tokens.dtype)


def _product(tokens: Tensor, plane: Tensor, scale: Tensor, offset: Tensor, block: int) -> Tensor:
    (count, columns), (groups, rows) = tokens.shape, scale.shape
    size, threads = columns // groups, torch.get_num_threads()
    values = tokens.float()
    unit = values.abs().amax(1, keepdim=True).clamp_(min=1e-30) / (127 * 256 + 127)
    digits = torch.empty(groups, 2 * count, size, dtype=torch.int8)
    sums = torch.empty(count, groups)
    given, to = (values.numpy(), unit.numpy()), (digits.numpy(), sums.numpy())

    def write(first: int, last: int) -> None:
        _digits(*given, first, last, *to)

    shared(write, count, threads)
    out = torch.mm(sums, offset)
    folded = plane.view(rows // block, columns, -1).numpy()
    factors, result = scale.numpy(), out.numpy()
    most = max(1, FOUND // (2 * count * block))

    def part(first: int, last: int) -> None:
        for begin in range(first, last, most):
            width = block * (min(last, begin + most) - begin)
            codes = torch.empty(size, width, dtype=torch.int8)
            found = torch.empty(2 * count, width, dtype=torch.int32)
            arrays = codes.numpy(), found.numpy()
            for group in range(groups):
                _levels(folded, begin, group * size, arrays[0])
                torch._int_mm(digits[group], codes, out=found)
                _add(arrays[1], factors[group], begin * block, result)

    shared(part, rows // block, threads)
    return out.mul_(unit)


def shared(part: Callable[[int, int], None], count: int, threads: int) -> None:
    """Split a range of `count` evenly over threads, and wait for all of them."""
    share = -(-count // threads)
    ranges = [(first, min(count, first + share)) for first in range(0, count, share)]
    if threads == 1:
        part(0, count)
        return
    jobs: list[Future[None]] = [_pool(threads).submit(part, *each) for each in ranges]
    for job in jobs:
        job.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """A thread pool in which torch uses one thread per worker."""
    pool, started = ThreadPoolExecutor(threads, "int4"), Barrier(threads)

    def begin() -> None:
        torch.set_num_threads(1)
        started.wait()

    for job in [pool.submit(begin) for _ in range(threads)]:
        job.result()
    torch.set_num_threads(threads)  # new threads inherit the number that was set last
    return pool
