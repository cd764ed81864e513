"""Round to nearest: the baseline of every quantizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.quant.grouped import Grouped, round_to_nearest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class RTN(Grouped):
    """Scale and zero from a group's smallest and largest weight, every weight to the nearest code.

    What HQQ begins with: `optimize=False` of Badri & Shaji 2023.
    """

    def solve(self, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize groups [groups, group_size]."""
        return round_to_nearest(groups, self.bits)
