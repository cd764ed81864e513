"""FP8 with scales, as DeepSeek-V3 has it: 8-bit floats in blocks of 128 x 128."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from moex.quant.formats.base import Format

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.base import Spec


class FP8(Format):
    """E4M3 numbers [out, in], and what a block of them is multiplied by."""

    name = "fp8"
    suffixes: ClassVar = {"weight": ".weight", "scale": ".weight_scale_inv"}

    def __init__(self, settings: Mapping[str, Any]) -> None:
        block = settings.get("weight_block_size")
        if not block or settings.get("fmt", "e4m3") != "e4m3":
            raise ValueError(
                f"quant=checkpoint: fp8 with weight_block_size={block}, fmt={settings.get('fmt')}; "
                "expected e4m3 with a scale a block; try quant=none, which decodes it"
            )
        self.block = (int(block[0]), int(block[1]))

    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return the tensors of one expert's matrix."""
        if shape[0] % self.block[0] or shape[1] % self.block[1]:
            raise ValueError(
                f"quant=checkpoint: fp8 of {shape[0]}x{shape[1]} in blocks of {self.block[0]}x"
                f"{self.block[1]}; expected whole blocks; try quant=none, which decodes it"
            )
        grid = (shape[0] // self.block[0], shape[1] // self.block[1])
        return {"weight": (shape, torch.float8_e4m3fn), "scale": (grid, torch.float32)}

    def decode(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Multiply every block by its scale, in float32."""
        weight, scale = stored["weight"].float(), stored["scale"]
        blocks = weight.view(scale.shape[0], self.block[0], scale.shape[1], self.block[1])
        return (blocks * scale[:, None, :, None]).view(weight.shape).to(dtype)
