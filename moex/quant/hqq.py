"""Half-quadratic quantization (HQQ), data-free. The only file that imports hqq."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from moex.quant.grouped import Grouped

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class HQQ(Grouped):
    """HQQ of Badri & Shaji 2023 (the quantizer of Eliseev & Mazur 2023): the solver of its package.

    As in its base configuration, initial zeros are rounded for 4 bits. The solver runs, and stops
    early, per block of rows (`block` weights), so that packing needs little memory.
    """

    block = 1 << 24

    def solve(self, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize groups [groups, group_size]."""
        from hqq.core.quantize import Quantizer

        codes, found = Quantizer.quantize(
            groups,
            nbits=self.bits,
            group_size=self.group_size,
            round_zero=self.bits == 4,
            axis=1,
            bitpack=False,
            device="cpu",
        )
        return codes, found["scale"], found["zero"]

    def settings(self, shape: tuple[int, int]) -> dict[str, Any]:
        """All settings that determine the packed bytes, including the version of hqq."""
        return {**super().settings(shape), "block": self.block, "hqq": version("hqq")}
