"""One code in two slices: the high bits compute alone, the low bits refine them to the whole."""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from moex.quant.base import Quantizer
from moex.quant.grouped import dequantize
from moex.quant.kernels.reference import Reference
from moex.runs.run_id import code_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.base import Spec

BITS = (4, 8)
PLANE = Reference()
"""How the codes of a slice are stored."""


@dataclass
class Sliced(Quantizer):
    """Asymmetric codes with whole zero-points, cut into a high and a low half.

    A weight is `(code - zero) * scale`: round to nearest between a group's minimum and maximum,
    which include 0. The high slice holds the upper half of the bits of codes and zero-points, and
    the scales; alone it stands for `((code >> d) - (zero >> d)) * (scale << d)`, d being half of
    the bits. The low slice holds the other halves: with both, the whole code computes, bit for bit,
    and nothing is stored twice. As in Choi et al. 2025 (SliceMoE), arXiv 2512.12990.

    Args:
        bits: of the whole code: 4 or 8; its high slice has half of them.
        group_size: weights that share a scale and a zero-point, along the input.

    Raises:
        ValueError: other bits, or no weight in a group.
    """

    bits: int = 4
    group_size: int = 32
    refining = frozenset({"low", "low_zero"})
    block = 1 << 20
    """Weights that are quantized at a time."""

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(
                f"quant.bits={self.bits}: expected 4 or 8, which two slices share; try quant.bits=4"
            )
        if self.group_size < 1:
            raise ValueError(
                f"quant.group_size={self.group_size}: expected 1 or more; try quant.group_size=32"
            )

    @property
    def half(self) -> int:
        """Bits of a slice."""
        return self.bits // 2

    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return name, shape and dtype of the packed tensors; those of the low slice are last."""
        rows, columns = shape
        if columns % self.group_size:
            better = min(32, columns & -columns)
            raise ValueError(
                f"{self.key}.group_size={self.group_size}: does not divide the {columns} inputs of "
                f"a weight {rows}x{columns}; try {self.key}.group_size={better}"
            )
        for length in (rows, columns):
            if length * self.half % 8:
                raise ValueError(
                    f"{self.key}: slices of {self.half} bits need sides of a multiple of "
                    f"{8 // self.half}, and a weight is {rows}x{columns}; try quant=rtn_8bit"
                )
        groups = columns // self.group_size
        codes = ((rows, columns * self.half // 8), torch.uint8)
        zeros = ((groups, rows * self.half // 8), torch.uint8)
        scale = ((groups, rows), torch.float16)
        return {"high": codes, "high_zero": zeros, "scale": scale, "low": codes, "low_zero": zeros}

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """Quantize a weight [out, in] and cut codes and zero-points into slices."""
        codes, scale, zero = self.quantize(weight)
        zero = zero.t().contiguous()
        high, low = self._cut(codes)
        high_zero, low_zero = self._cut(zero)
        return {
            "high": high,
            "high_zero": high_zero,
            "scale": scale.t().contiguous(),
            "low": low,
            "low_zero": low_zero,
        }

    def _cut(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        high, low = codes >> self.half, codes & (2**self.half - 1)
        return PLANE.store(high, self.half), PLANE.store(low, self.half)

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes, uint8 [out, in], scales, half, and zero-points, uint8 [out, groups]."""
        columns = weight.shape[1]
        found = []
        for part in weight.split(max(1, self.block // columns)):
            groups = part.float().reshape(-1, self.group_size)
            codes, scale, zero = self._solve(groups)
            shape = (len(part), columns // self.group_size)
            found.append((codes.view(part.shape), scale.view(shape), zero.view(shape)))
        codes, scale, zero = (torch.cat(each) for each in zip(*found, strict=True))
        return codes, scale, zero

    def _solve(self, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize groups [n, group_size]; codes fit the scale as it is kept."""
        most = 2**self.bits - 1
        low, high = groups.aminmax(dim=1, keepdim=True)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = ((high - low) / most).half()
        scale = torch.where(scale == 0, 1.0, scale).half()
        zero = (-low / scale.float()).round_().clamp_(0, most)
        codes = (groups / scale.float()).add_(zero).round_().clamp_(0, most)
        return codes.to(torch.uint8), scale, zero.to(torch.uint8)

    def unpack(self, packed: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the weight [out, in]; of fewer bits if `packed` has no low slice."""
        scale = packed["scale"].float()
        groups, rows = scale.shape
        shape = (rows, groups * self.group_size)
        codes = PLANE.codes(packed["high"], self.half, shape)
        zero = PLANE.codes(packed["high_zero"], self.half, (groups, rows))
        if "low" in packed:
            codes = (codes << self.half) | PLANE.codes(packed["low"], self.half, shape)
            low = PLANE.codes(packed["low_zero"], self.half, (groups, rows))
            zero = (zero << self.half) | low
        else:
            scale = scale * 2**self.half
        return dequantize(codes, scale, zero.float(), dtype)

    def matmul(self, x: Tensor, packed: Mapping[str, Tensor]) -> Tensor:
        """Dequantize as many slices as there are, then multiply."""
        return functional.linear(x, self.unpack(packed, x.dtype))

    def kernel_name(self, shape: tuple[int, int]) -> str:
        """The reference: dequantizes, then multiplies."""
        return PLANE.name

    def settings(self, shape: tuple[int, int]) -> dict[str, Any]:
        """Every field, and the digest of this code."""
        code = code_digest(inspect.getsource(sys.modules[__name__]))
        return {**asdict(self), "quantizer": type(self).__name__, "code": code}
