"""Half-quadratic quantization: the zeros are fitted, without data. The only file that knows hqq."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from moex.quant.grouped import Grouped

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class HQQ(Grouped):
    """HQQ of Badri & Shaji 2023 (the quantizer of Eliseev & Mazur 2023): the package's own solver.

    As in its base configuration zeros start rounded with 4 bits. The solver stops early for a block
    of rows at a time (`block` weights), so that packing needs little memory.
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
        """All that decides the packed bytes: the solver's version as well."""
        return {**super().settings(shape), "block": self.block, "hqq": version("hqq")}
