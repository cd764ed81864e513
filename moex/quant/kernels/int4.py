"""Torch's int4 kernel on the CPU: 4 bits, groups of 32 to 256, outputs in multiples of a block."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from moex.quant import loops
from moex.quant.kernels.base import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.grouped import Grouped

GROUPS = (32, 64, 128, 256)
MANY = 24
"""Number of tokens from which integer products are faster than the kernel."""


@cache
def has_integers() -> bool:
    """Whether processor and torch support integer products (VNNI)."""
    return bool(torch.cpu._is_vnni_supported()) and hasattr(torch, "_int_mm")


@cache
def block() -> int:
    """Rows of a block of the kernel's plane on this machine (64 with AVX-512); 0: no such kernel.

    In a block a byte holds the codes of two rows half a block apart, input by input. Determined by
    a test call, because it differs between machines and is undocumented.
    """
    codes = torch.randint(16, (128, 64), generator=torch.Generator().manual_seed(0))
    try:
        plane = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    except (AttributeError, RuntimeError, NotImplementedError):
        return 0
    fitting = (size for size in (64, 32, 16) if torch.equal(_unfold(plane, size), codes.byte()))
    return next(fitting, 0)


def _unfold(plane: Tensor, size: int) -> Tensor:
    """Codes [out, in] of a plane [out, in / 2] in blocks of `size` rows."""
    rows, columns = plane.shape[0], 2 * plane.shape[1]
    folded = plane.view(rows // size, columns, size // 2)
    return torch.cat((folded & 15, folded >> 4), 2).transpose(1, 2).reshape(rows, columns)


class Int4(Kernel):
    """Scales and zeros are expanded from 8 bits to the activations' dtype at every call."""

    name = "int4"
    rank = 2
    # Not vectorized: at one token no faster than the reference, which dequantizes once for all
    # tokens, and at 64 tens of times slower.
    slow = frozenset({torch.float32, torch.float16})

    @property
    def layout(self) -> str:
        """Includes the block size, which differs between processors."""
        return f"int4, blocks of {block()}"

    def refusal(self, bits: int, group_size: int, shape: tuple[int, int], device: str) -> str:
        """Supports 4 bits on a CPU."""
        if bits != 4 or group_size not in GROUPS:
            return f"int4 computes 4 bits in groups of {', '.join(map(str, GROUPS))}"
        if torch.device(device).type != "cpu" or not block():
            return "int4 needs a CPU, and a torch with its weight-only kernel"
        return f"int4 needs outputs of a multiple of {block()}" if shape[0] % block() else ""

    def store(self, codes: Tensor, bits: int) -> Tensor:
        """Return the kernel's plane; it takes 32-bit codes, so a few rows at a time."""
        pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        return torch.cat([pack(rows.int(), 1) for rows in codes.split(16 * block())])

    def codes(self, plane: Tensor, bits: int, shape: tuple[int, int]) -> Tensor:
        """Return the codes, uint8 [out, in], of a plane."""
        return _unfold(plane, block())

    def matmul(self, x: Tensor, packed: Mapping[str, Tensor], quantizer: Grouped) -> Tensor:
        """Multiply with the kernel; for many tokens, in integers."""
        tokens = x.reshape(-1, x.shape[-1]).contiguous()
        if len(tokens) >= MANY and x.dtype == torch.bfloat16 and has_integers():
            out = loops.product(tokens, packed, block())
        else:
            out = torch.ops.aten._weight_int4pack_mm_for_cpu(
                tokens, packed["codes"], quantizer.group_size, loops.table(packed, x.dtype)
            )
        return out.view(*x.shape[:-1], -1)
