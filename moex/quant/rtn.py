"""Round to nearest (RTN): the baseline quantizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.quant.grouped import Grouped
from moex.quant.scales import round_to_nearest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class RTN(Grouped):
    """Scale and zero from a group's minimum and maximum; weights rounded to the nearest code.

    The starting point of HQQ: `optimize=False` of Badri & Shaji 2023.
    """

    def solve(self, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize groups [groups, group_size]."""
        return round_to_nearest(groups, self.bits)
