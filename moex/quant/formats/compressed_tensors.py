"""Compressed-tensors W4A16 (`pack-quantized`): codes in 32-bit words along a row, symmetric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from moex.quant.formats.base import Format

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.base import Spec

WORD = 32
"""Bits of a word."""


class CompressedTensors(Format):
    """`scale * (code - 2 ** (bits - 1))`, with a scale a group or a row."""

    suffixes: ClassVar = {"packed": ".weight_packed", "scale": ".weight_scale"}

    def __init__(self, settings: Mapping[str, Any]) -> None:
        groups = list((settings.get("config_groups") or {}).values())
        weights: Mapping[str, Any] = (groups[0].get("weights") or {}) if groups else {}
        taken = {key: weights.get(key) for key in ("num_bits", "type", "symmetric", "strategy")}
        fits = (
            settings.get("format") == "pack-quantized"
            and len(groups) == 1
            and taken["num_bits"] in (4, 8)
            and taken["symmetric"]
            and taken["type"] == "int"
            and taken["strategy"] in ("group", "channel")
            and not weights.get("actorder")
        )
        if not fits:
            raise ValueError(
                f"model: compressed-tensors of format={settings.get('format')}, {len(groups)} "
                f"groups, {taken}, actorder={weights.get('actorder')}; expected pack-quantized "
                "symmetric integers of 4 or 8 bits, one group, no act-order; try another checkpoint"
            )
        self.bits = int(weights["num_bits"])
        self.group = int(weights.get("group_size") or -1)
        self.dtype: torch.dtype = settings["dtype"]

    @property
    def name(self) -> str:
        """Bits and group size."""
        return f"compressed-tensors {self.bits} bits, groups of {self.group}"

    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return the tensors of one expert's matrix."""
        rows, columns = shape
        size, words = columns if self.group < 0 else self.group, WORD // self.bits
        if columns % words or columns % size:
            raise ValueError(
                f"model: {self.name} for {rows}x{columns}; expected whole words and groups; is it "
                "another model's config?"
            )
        return {
            "packed": ((rows, columns // words), torch.int32),
            "scale": ((rows, columns // size), self.dtype),
        }

    def decode(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Multiply in float32, then round to the dtype."""
        shifts, half = torch.arange(0, WORD, self.bits, dtype=torch.int32), 2 ** (self.bits - 1)
        codes = (stored["packed"][..., None] >> shifts & 2 * half - 1) - half
        scale = stored["scale"].float()
        grouped = codes.view(*scale.shape, -1) * scale[..., None]
        return grouped.flatten(1).to(dtype)
