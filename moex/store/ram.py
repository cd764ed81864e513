"""Master copies in host memory."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch

from moex.store.base import ExpertStore
from moex.store.slots import paged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from moex.store.bundles import Bundles
    from moex.store.layout import Planes
    from moex.types import Expert, Geometry


PIECE = 1 << 20
"""Bytes of rows that are copied at a time, so that they stay in the processor's cache."""


class RamStore(ExpertStore):
    """All experts of the model in host memory, one tensor per layer."""

    name = "ram"
    in_memory = True

    def __init__(self, layout: Planes | Bundles, geometry: Geometry) -> None:
        self.layout, self.geometry = layout, geometry
        # Each layer has its own whole pages, because memory is locked by pages.
        shape = (geometry.experts, layout.bytes)
        self.records = [paged(prod(shape)).view(shape) for _ in range(geometry.layers)]
        self._rows: dict[Expert, np.ndarray] = {}

    def write(self, expert: Expert, record: torch.Tensor) -> None:
        """Keep a copy of the record."""
        self.records[expert.layer][expert.index].copy_(record)

    def put(self, expert: Expert, tensors: Mapping[str, torch.Tensor]) -> None:
        """Store one expert, packed in its place."""
        self.layout.pack(self.records[expert.layer][expert.index], tensors)

    def read(self, expert: Expert, out: torch.Tensor) -> None:
        """Copy the expert's record into `out`."""
        out.copy_(self.records[expert.layer][expert.index])

    def read_slice(self, expert: Expert, span: tuple[int, int], out: torch.Tensor) -> None:
        """Copy a slice of the expert's record into `out`."""
        out.copy_(self.records[expert.layer][expert.index][slice(*span)])

    def tensors(self, expert: Expert) -> dict[str, torch.Tensor]:
        """Return the expert's tensors, sharing the store's memory."""
        return self.layout.weights(self.records[expert.layer][expert.index])

    def gather(self, expert: Expert, rows: np.ndarray | None) -> torch.Tensor:
        """Return neurons of the expert: a copy of selected rows, a view if `rows` is None."""
        neurons = self.layout.views(self.records[expert.layer][expert.index])
        return neurons if rows is None else neurons.index_select(0, torch.from_numpy(rows))

    def rows(self, expert: Expert, rows: np.ndarray | None) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield neurons of the expert as runs of bytes; all rows at once, without a copy."""
        found = self._rows.get(expert)
        if found is None:  # cached: making a view takes as long as copying a few rows
            record = self.records[expert.layer][expert.index]
            size = self.layout.neurons * self.layout.row_bytes
            found = self._rows[expert] = record.numpy()[:size].view(f"V{self.layout.row_bytes}")
        if rows is None:
            yield slice(None), found
            return
        step = max(1, PIECE // self.layout.row_bytes)
        for part in (slice(at, at + step) for at in range(0, len(rows), step)):
            yield part, found.take(rows[part])

    def close(self) -> None:
        """Free the memory, even if a traceback or a notebook still holds the store."""
        self.records, self._rows = [], {}
