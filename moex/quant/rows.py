"""Self-contained packed rows: codes, scales, zeros and second-level scales in one run of bytes.

For neurons that are moved one by one (layout `bundles`): gate row, up row and down column, each
quantized along the hidden dimension, with second-level scales for every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moex.quant import scales
from moex.quant.grouped import dequantize
from moex.quant.kernels.reference import Reference

if TYPE_CHECKING:
    from torch import Tensor

    from moex.quant.grouped import Grouped

PLANE = Reference()
"""How the codes of a row are stored."""

NAME = "rows"
"""The kernel's name in result rows: neurons are unpacked on the device before computing."""

META = 16
"""Bytes of a row's four numbers in float32: scale and zero of its scales, and of its zeros."""


def row_bytes(quantizer: Grouped, columns: int) -> int:
    """Bytes of a packed row of `columns` weights."""
    quantizer.tensors((64, columns))  # raises if its groups do not divide the columns
    return columns * quantizer.bits // 8 + 2 * (columns // quantizer.group_size) + META


def pack_rows(quantizer: Grouped, weight: Tensor) -> Tensor:
    """Quantize rows [rows, columns] independently: uint8 [rows, row_bytes]."""
    codes, scale, zero = quantizer.quantize(weight)
    parts = [PLANE.store(codes, quantizer.bits)]
    metas = []
    for values, unit in ((scale, scales.UNIT), (zero, 1.0)):
        found, meta = scales.quantize(values * unit, values.shape[1])
        meta[:, 0] /= unit
        parts.append(found)
        metas.append(meta)
    return torch.cat([*parts, torch.cat(metas, 1).view(torch.uint8)], 1)


def unpack_rows(quantizer: Grouped, rows: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """Dequantize packed rows to weights [rows, columns]."""
    groups, plane = columns // quantizer.group_size, columns * quantizer.bits // 8
    sizes = (plane, groups, groups, META)
    bits, scale, zero, meta = rows.split(sizes, 1)
    # Copy even a single row, because float32 needs aligned memory.
    numbers = meta.clone(memory_format=torch.contiguous_format).view(torch.float32)
    scale = (scale - numbers[:, 1:2]) * numbers[:, 0:1]
    zero = (zero - numbers[:, 3:4]) * numbers[:, 2:3]
    codes = PLANE.codes(bits, quantizer.bits, (len(rows), columns))
    return dequantize(codes, scale.t(), zero.t(), dtype)


@dataclass(frozen=True)
class Neurons:
    """How the neurons of an expert are packed: gate row, up row, down column, one after the other.

    Args:
        gate_up: quantizer of gate and up rows; None: not quantized.
        down: quantizer of down columns; None: not quantized.
        neurons: neurons per expert.
        hidden: length of a gate row.
        dtype: dtype of the unpacked weights.

    Raises:
        ValueError: groups that do not divide the hidden size.
    """

    gate_up: Grouped | None
    down: Grouped | None
    neurons: int
    hidden: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        for quantizer in (self.gate_up, self.down):
            self._size(quantizer)

    @property
    def row_bytes(self) -> int:
        """Bytes of a neuron."""
        return 2 * self._size(self.gate_up) + self._size(self.down)

    def _size(self, quantizer: Grouped | None) -> int:
        if quantizer is None:
            return self.hidden * self.dtype.itemsize
        return row_bytes(quantizer, self.hidden)

    def pack(self, gate_up: Tensor, down: Tensor) -> Tensor:
        """Pack weights [2 * neurons, hidden] and [hidden, neurons]: uint8 [neurons, row_bytes]."""
        first = self._pack(self.gate_up, gate_up).view(2, self.neurons, -1)
        return torch.cat((*first, self._pack(self.down, down.t())), 1)

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Return `gate_up` [2 * rows, hidden] and `down` [rows, hidden] of packed neurons."""
        size = self._size(self.gate_up)
        parts = packed.split((size, size, self._size(self.down)), 1)
        if self.gate_up == self.down:
            all_three = self._unpack(self.down, torch.cat(parts))
            both, down = all_three.split((2 * len(packed), len(packed)))
        else:
            both = self._unpack(self.gate_up, torch.cat(parts[:2]))
            down = self._unpack(self.down, parts[2])
        return {"gate_up": both, "down": down}

    def _pack(self, quantizer: Grouped | None, weight: Tensor) -> Tensor:
        if quantizer is None:
            return weight.contiguous().view(torch.uint8)
        return pack_rows(quantizer, weight)

    def _unpack(self, quantizer: Grouped | None, rows: Tensor) -> Tensor:
        if quantizer is None:
            return rows.contiguous().view(self.dtype)
        return unpack_rows(quantizer, rows, self.hidden, self.dtype)
