"""MXFP4, as gpt-oss has it: 4-bit floats, and one power of two for every 32 of them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

import torch

from moex.quant.formats.base import Format

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.base import Spec

GROUP = 32
"""Numbers that share a scale."""
BIAS = 127
"""A scale is 2 to the power of its byte less this."""
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The numbers of three bits; the fourth is the sign (OCP Microscaling Formats 1.0, table 6)."""


class MXFP4(Format):
    """Blocks [out, in / 32, 16], whose bytes hold two numbers, the low half first; and scales."""

    name = "mxfp4"
    suffixes: ClassVar = {"blocks": "_blocks", "scales": "_scales"}
    stacked = True

    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return the tensors of one expert's matrix."""
        if shape[1] % GROUP:
            raise ValueError(
                f"model: mxfp4 with {shape[1]} inputs; expected a multiple of {GROUP}, as in "
                "gpt-oss; is the file damaged?"
            )
        grid = (shape[0], shape[1] // GROUP)
        return {"blocks": ((*grid, GROUP // 2), torch.uint8), "scales": (grid, torch.uint8)}

    def decode(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Look both numbers of every byte up, and multiply by the power of two: exact."""
        blocks, powers = stored["blocks"], stored["scales"].int() - BIAS
        pairs = _pairs(dtype, blocks.device)[blocks.int()]
        return torch.ldexp(pairs, powers[..., None, None]).to(dtype).view(len(blocks), -1)


@cache
def _pairs(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Both numbers of every byte [256, 2]."""
    codes = torch.tensor((*VALUES, *(-value for value in VALUES)), dtype=dtype, device=device)
    byte = torch.arange(256, device=device)
    return torch.stack((codes[byte & 15], codes[byte >> 4]), 1)
