"""GPTQ: codes of 4 or 8 bits in 32-bit words along the inputs; a scale and a zero a group."""

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


class GPTQ(Format):
    """`scale * (code - zero)`; groups in the order of the inputs (no act-order)."""

    suffixes: ClassVar = {"qweight": ".qweight", "qzeros": ".qzeros", "scales": ".scales"}

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.bits = int(settings.get("bits") or 0)
        self.group = int(settings.get("group_size", 128))
        given = ", ".join(f"{key}={settings.get(key)}" for key in ("bits", "desc_act", "dynamic"))
        if self.bits not in (4, 8) or settings.get("desc_act") or settings.get("dynamic"):
            raise ValueError(
                f"model: gptq with {given}; expected 4 or 8 bits for all matrices, "
                "without act-order (desc_act=false); try another checkpoint"
            )
        # The first version stores zeros less one.
        self.offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
        self.dtype: torch.dtype = settings["dtype"]

    @property
    def name(self) -> str:
        """Bits and group size."""
        return f"gptq {self.bits} bits, groups of {self.group}"

    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return the tensors of one expert's matrix."""
        (rows, columns), words = shape, WORD // self.bits
        size = columns if self.group < 0 else self.group
        if rows % words or columns % words or columns % size:
            raise ValueError(
                f"model: {self.name} for {rows}x{columns}; expected whole words and groups; is it "
                "another model's config?"
            )
        groups = columns // size
        return {
            "qweight": ((columns // words, rows), torch.int32),
            "qzeros": ((groups, rows // words), torch.int32),
            "scales": ((groups, rows), self.dtype),
        }

    def decode(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Multiply in float32, then round to the dtype."""
        shifts, mask = torch.arange(0, WORD, self.bits, dtype=torch.int32), 2**self.bits - 1
        words, scales = stored["qweight"], stored["scales"].float()
        codes = (words[:, None] >> shifts[:, None] & mask).flatten(0, 1)
        zeros = (stored["qzeros"][..., None] >> shifts & mask).flatten(1) + self.offset
        grouped = codes.view(len(scales), -1, codes.shape[1])
        return (
            ((grouped - zeros[:, None]) * scales[:, None]).flatten(0, 1).to(dtype).t().contiguous()
        )
