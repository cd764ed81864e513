"""Master copies in host memory."""

from __future__ import annotations

from contextlib import closing
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from moex.store.base import ExpertStore
from moex.store.bundles import Bundles
from moex.store.layout import Planes
from moex.store.slots import paged
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch

    from moex.types import Geometry


class RamStore(ExpertStore):
    """All experts of the model in ordinary memory, one tensor a layer.

    Filled once, an expert at a time, by whoever reads the checkpoint; or from another store, which
    is then closed.
    """

    name = "ram"
    in_memory = True

    def __init__(
        self, layout: Planes | Bundles, geometry: Geometry, source: ExpertStore | None = None
    ) -> None:
        self.layout, self.geometry = layout, geometry
        # Whole pages, none of them shared: page-locking is by pages.
        shape = (geometry.experts, layout.bytes)
        self.records = [paged(prod(shape)).view(shape) for _ in range(geometry.layers)]
        self._lines: dict[Expert, np.ndarray] = {}
        if source is not None:
            with closing(source):
                for layer, index in product(range(geometry.layers), range(geometry.experts)):
                    source.read(Expert(layer, index), self.records[layer][index])

    def put(self, expert: Expert, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill in one expert."""
        self.layout.pack(self.records[expert.layer][expert.index], tensors)

    def read(self, expert: Expert, out: torch.Tensor) -> None:
        """Copy the expert's record into `out`."""
        out.copy_(self.records[expert.layer][expert.index])

    def tensors(self, expert: Expert) -> dict[str, torch.Tensor]:
        """Return the expert's tensors, to be computed with where they lie."""
        assert isinstance(self.layout, Planes)
        return self.layout.weights(self.records[expert.layer][expert.index])

    def gather(self, expert: Expert, rows: torch.Tensor | None) -> torch.Tensor:
        """Return neurons of the expert: of some of them a copy, of all of them a view."""
        assert isinstance(self.layout, Bundles)
        neurons = self.layout.views(self.records[expert.layer][expert.index])
        return neurons if rows is None else neurons.index_select(0, rows)

    def lines(self, expert: Expert, rows: np.ndarray) -> np.ndarray:
        """Neurons of the expert as runs of bytes [rows, 3], a copy."""
        found = self._lines.get(expert)
        if found is None:  # once: making a view takes as long as copying a few rows
            assert isinstance(self.layout, Bundles)
            views = self.layout.views(self.records[expert.layer][expert.index])
            found = self._lines[expert] = self.layout.lines(views).reshape(-1, 3)
        return found.take(rows, 0)

    def close(self) -> None:
        """Give the memory back, whoever still has the store: a traceback, a notebook."""
        self.records, self._lines = [], {}
