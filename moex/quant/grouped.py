"""Group-wise quantization along the input: a code per weight, a scale and a zero per group.

A weight is `(code - zero) * scale`. Scales and zeros are quantized to 8 bits themselves (see
`scales`), so that 4 bits in groups of 64 cost 4.254 bits per weight instead of 4.5.
"""

from __future__ import annotations

import inspect
import sys
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from moex.paths import check_word, plug_in, plug_ins
from moex.quant import scales
from moex.quant.base import Quantizer
from moex.quant.kernels.base import Kernel
from moex.runs.run_id import code_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.base import Spec

BITS = (8, 4, 3, 2)
ROOM = ("quant/kernels", "Kernel")
"""Where kernels are, one a file, and the name of their base class."""


@cache
def kernels(word: str) -> list[Kernel]:
    """The kernel of this name; auto: those with a rank, the highest first."""
    words = plug_ins(*ROOM) if word == "auto" else [word]
    found: list[Kernel] = [plug_in("quant.kernel", each, *ROOM)() for each in words]
    ranked = sorted(found, key=lambda kernel: -kernel.rank)
    return [kernel for kernel in ranked if kernel.rank or word != "auto"]


@cache
def _written(kind: type, until: type = Quantizer) -> dict[str, str]:
    """Code digests of a quantizer class, its base classes and `scales`, by module.

    So an edited quantizer packs again. Kernels of moex are not included: a changed storage format
    gets another name (`Kernel.layout`). For a class defined in a notebook its own source is used.
    """
    written = {scales.__name__: code_digest(inspect.getsource(scales))}
    for each in kind.__mro__[: kind.__mro__.index(until)]:
        for thing in (each, sys.modules.get(each.__module__)):  # the whole file, if there is one
            with suppress(OSError, TypeError, SyntaxError):
                written[each.__module__] = code_digest(inspect.getsource(thing))  # type: ignore[arg-type]
    return written


@dataclass
class Grouped(Quantizer):
    """Base of the group-wise quantizers; subclasses only define `solve`.

    Args:
        bits: bits per code: 8, 4, 3 or 2.
        group_size: weights that share a scale and a zero, along the input.
        meta_bits: bits of scales and zeros: 8, or 16 for half precision.
        scale_group: maximum number of scales that share a second-level scale, with 8 meta bits;
            if it does not divide their number, they are split as evenly as possible.
        kernel: what computes: auto (the fastest that is available and supports shape and
            activations), a file of `kernels/` (reference, int4 for a CPU, tinygemm for CUDA), or
            the dotted name of a class.

    Raises:
        ValueError: bits, meta_bits or kernel has another value.
    """

    bits: int = 4
    group_size: int = 64
    meta_bits: int = 8
    scale_group: int = 256
    kernel: str = "auto"
    block = 1 << 20
    """Weights that are quantized at a time."""

    def __post_init__(self) -> None:
        for name, given, known in (
            ("bits", self.bits, BITS),
            ("meta_bits", self.meta_bits, (8, 16)),
        ):
            if given not in known:
                expected = ", ".join(map(str, known))
                raise ValueError(f"quant.{name}={given}: expected one of {expected}")
        check_word("quant.kernel", self.kernel, *ROOM)
        for name, usual in (("group_size", 64), ("scale_group", 256)):
            if (given := getattr(self, name)) < 1:
                raise ValueError(
                    f"quant.{name}={given}: expected 1 or more; try quant.{name}={usual}"
                )

    @abstractmethod
    def solve(self, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize float32 groups [n, group_size]: codes of that shape, scales and zeros [n, 1]."""

    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return name, shape and dtype of the packed tensors of a weight [out, in]."""
        kernel = self._chosen(shape)
        grid = (shape[1] // self.group_size, shape[0])
        plane = {"codes": (kernel.plane(shape, self.bits), torch.uint8)}
        return {**plane, **scales.tensors(grid, self.meta_bits, self.scale_group)}

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """Quantize a weight [out, in], a block of rows at a time."""
        kernel = self._chosen((weight.shape[0], weight.shape[1]))
        codes, scale, zero = self.quantize(weight)
        metas = scales.pack(scale.t(), zero.t(), self.meta_bits, self.scale_group)
        return {"codes": kernel.store(codes, self.bits), **metas}

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes, uint8 [out, in], and their scales and zeros, float32 [out, groups]."""
        shape = (weight.shape[0], weight.shape[1])
        codes = torch.empty(shape, dtype=torch.uint8)
        scale, zero = torch.empty(2, shape[0], shape[1] // self.group_size)
        height = max(1, self.block // shape[1])
        for start in range(0, shape[0], height):
            rows = slice(start, start + height)
            groups = weight[rows].float().reshape(-1, self.group_size)
            found = self.solve(groups)
            codes[rows] = found[0].view(codes[rows].shape)
            scale[rows], zero[rows] = (part.view(scale[rows].shape) for part in found[1:])
        return codes, scale, zero

    def unpack(self, packed: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the weight [out, in]; computed in float32."""
        scale, zero = scales.read(packed)
        shape = (scale.shape[1], scale.shape[0] * self.group_size)
        codes = self._chosen(shape).codes(packed["codes"], self.bits, shape)
        return dequantize(codes, scale, zero, dtype)

    def matmul(self, x: Tensor, packed: Mapping[str, Tensor]) -> Tensor:
        """Return `x @ weight.T`."""
        groups, rows = packed["scale"].shape
        kernel = self._chosen((rows, groups * self.group_size))
        return kernel.matmul(x, packed, self)

    def kernel_name(self, shape: tuple[int, int]) -> str:
        """Return the name of the kernel for a weight of this shape."""
        return self._chosen(shape).name

    def settings(self, shape: tuple[int, int]) -> dict[str, Any]:
        """All settings that determine the packed bytes: every field, and the code digests."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        kernel = self._chosen(shape)
        written: dict[str, Any] = {"quantizer": type(self).__name__, "code": _written(type(self))}
        if "." in self.kernel:
            written["kernel_code"] = _written(type(kernel), Kernel)
        return {**given, **written, "kernel": kernel.layout}

    def computes_on(self, device: str, shape: tuple[int, int]) -> bool:
        """Whether the kernel that was chosen computes on another device, too."""
        return not self._chosen(shape).refusal(self.bits, self.group_size, shape, device)

    def _chosen(self, shape: tuple[int, int]) -> Kernel:
        key = (shape, self.device, self.dtype)
        chosen = self.__dict__.setdefault("_kernels", {})
        if key not in chosen:
            chosen[key] = self._choose(shape)
        kernel: Kernel = chosen[key]
        return kernel

    def _choose(self, shape: tuple[int, int]) -> Kernel:
        rows, columns = shape
        if columns % self.group_size:
            raise ValueError(
                f"{self.key}.group_size={self.group_size}: does not divide the {columns} inputs of "
                f"a weight {rows}x{columns}; try {self.key}.group_size={_largest(columns)}"
            )
        refused, settings = "", (self.group_size, shape, self.device)
        for kernel in kernels(self.kernel):
            if self.kernel == "auto" and self.dtype in kernel.slow:
                continue
            refused = kernel.refusal(self.bits, *settings)
            if not refused:
                return kernel
        every = kernels("auto")
        possible = [bits for bits in BITS if not all(k.refusal(bits, *settings) for k in every)]
        nearest = min(possible, key=lambda bits: abs(bits - self.bits))
        better = "kernel=auto" if nearest == self.bits else f"bits={nearest}"
        raise ValueError(
            f"{self.key}.kernel={self.kernel}: {refused} (a weight {rows}x{columns}, {self.bits} "
            f"bits, groups of {self.group_size}, {self.device}); try {self.key}.{better}"
        )


def _largest(columns: int) -> int:
    """The largest power of two up to 64 that divides the columns."""
    return min(64, columns & -columns)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `(code - zero) * scale` of codes [out, in] and scales [groups, out], in blocks."""
    out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    groups, rows = scale.shape
    grouped = (rows, groups, codes.shape[1] // groups)
    parts = (codes.view(grouped), scale.t()[..., None], zero.t()[..., None], out.view(grouped))
    block = 1 << (18 if codes.device.type == "cpu" else 24)  # fits the cache; few launches
    height = max(1, block // codes.shape[1])
    for q, s, z, o in zip(*(part.split(height) for part in parts), strict=True):
        o.copy_(q.float().sub_(z).mul_(s))
    return out
