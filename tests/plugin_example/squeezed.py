"""A store of another package."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch

from moex.store.base import ExpertStore

if TYPE_CHECKING:
    from moex.store.layout import Planes
    from moex.types import Expert, Geometry


class Squeezed(ExpertStore):
    """Experts in host memory, compressed by zlib; a load is slower, memory smaller."""

    name = "squeezed"

    def __init__(self, layout: Planes, geometry: Geometry) -> None:
        self.layout, self.geometry = layout, geometry
        self.records: dict[Expert, bytes] = {}

    def write(self, expert: Expert, record: torch.Tensor) -> None:
        """Compress a record."""
        self.records[expert] = zlib.compress(record.numpy().data, 1)

    def read(self, expert: Expert, out: torch.Tensor) -> None:
        """Decompress it."""
        record = bytearray(zlib.decompress(self.records[expert]))
        out.copy_(torch.frombuffer(record, dtype=torch.uint8))
