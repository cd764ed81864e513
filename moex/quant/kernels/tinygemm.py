"""Torch's int4 kernel on CUDA, which torchao uses too: 4 bits, bfloat16.

Used only after a check that it returns correct codes on the device.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from moex.quant import scales
from moex.quant.kernels.base import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.grouped import Grouped

GROUPS = (32, 64, 128, 256)
TILES = 8
"""Tiles of 16 inputs each that a thread reads at once."""


def _multiply(x: Tensor, plane: Tensor, size: int, table: Tensor) -> Tensor:
    rows, columns = plane.shape[0], 2 * plane.shape[1]
    tiles = plane.view(torch.int32).view(rows // 8, columns // (16 * TILES), 32, TILES // 2)
    return torch.ops.aten._weight_int4pack_mm(x, tiles, size, table)


@cache
def _agrees(device: str) -> bool:
    """Whether the kernel is available and returns the codes that it was given."""
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return False
    try:
        codes = torch.arange(64 * 128).mul(7).remainder(16).byte().view(64, 128)
        kernel = TinyGemm()
        plane = kernel.store(codes, 4).to(device)
        return torch.equal(kernel.codes(plane, 4, (64, 128)).cpu(), codes)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


class TinyGemm(Kernel):
    """Computes in bfloat16, whatever the dtype of the activations."""

    name = "tinygemm"
    rank = 3

    def refusal(self, bits: int, group_size: int, shape: tuple[int, int], device: str) -> str:
        """Supports 4 bits on CUDA."""
        if bits != 4 or group_size not in GROUPS:
            return f"tinygemm computes 4 bits in groups of {', '.join(map(str, GROUPS))}"
        if not _agrees(device):
            return "tinygemm needs a CUDA device on which torch's int4 kernel works"
        fits = shape[0] % 8 == 0 and shape[1] % (16 * TILES) == 0
        return "" if fits else f"tinygemm needs outputs by 8 and inputs by {16 * TILES}"

    def store(self, codes: Tensor, bits: int) -> Tensor:
        """Return the kernel's plane; conversion runs on the device."""
        pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).cuda()
        plane = torch.ops.aten._convert_weight_to_int4pack(pairs, TILES)
        return plane.contiguous().view(torch.uint8).view(len(codes), -1).cpu()

    def codes(self, plane: Tensor, bits: int, shape: tuple[int, int]) -> Tensor:
        """Return the codes: the product with the identity, at scale 1 and offset 8."""
        one = torch.eye(shape[1], dtype=torch.bfloat16, device=plane.device)
        table = torch.ones(shape[1] // 32, shape[0], 2, dtype=one.dtype, device=one.device)
        table[..., 1] = 8
        return _multiply(one, plane, 32, table).t().to(torch.uint8).contiguous()

    def matmul(self, x: Tensor, packed: Mapping[str, Tensor], quantizer: Grouped) -> Tensor:
        """Multiply with the kernel."""
        scale, zero = scales.read(packed)
        # Written in place: every launch saved counts, four times per visit.
        table = torch.empty(*scale.shape, 2, dtype=torch.bfloat16, device=scale.device)
        table[..., 0] = scale
        torch.mul(8 - zero, scale, out=table[..., 1])
        tokens = x.reshape(-1, x.shape[-1]).bfloat16().contiguous()
        out = _multiply(tokens, packed["codes"], quantizer.group_size, table)
        return out.to(x.dtype).view(*x.shape[:-1], -1)
