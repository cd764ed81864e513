"""What a store is: a read-only mapping from an expert to its record of bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from moex.store.bundles import Bundles

if TYPE_CHECKING:
    import numpy as np

    from moex.store.layout import Planes
    from moex.types import Expert, Geometry


class ExpertStore(ABC):
    """Where the master copies live. Nothing is ever written back, so eviction is free."""

    name: str = ""
    layout: Planes | Bundles
    geometry: Geometry
    io: str | None = None
    """How files are read: `direct` (around the page cache), `buffered`; None where none are."""

    in_memory: bool = False
    """Whether `tensors` gives what can be computed with at once, where it lies."""

    @property
    def files_warm(self) -> bool | None:
        """Whether what was read could have come from the page cache; None where nothing is read."""
        return None if self.io is None else self.io != "direct"

    @abstractmethod
    def read(self, expert: Expert, out: torch.Tensor) -> None:
        """Copy the expert's record into `out` (uint8, `layout.bytes` long)."""

    def tensors(self, expert: Expert) -> dict[str, torch.Tensor]:
        """Return the expert's tensors in the store's own memory, where it has them there."""
        raise NotImplementedError(f"{type(self).__name__} has no experts in memory")

    def gather(self, expert: Expert, rows: torch.Tensor | None) -> torch.Tensor:
        """Return neurons of the expert [rows, 3, hidden]: gate row, up row, down column.

        Only stores whose layout is `bundles` can. The result may share the store's memory.

        Args:
            expert: whose.
            rows: which [rows], ascending; None for all.
        """
        raise NotImplementedError(f"{type(self).__name__} has no neurons to gather")

    def lines(self, expert: Expert, rows: np.ndarray) -> np.ndarray:
        """What `gather` returns, as runs of bytes [rows, 3]."""
        assert isinstance(self.layout, Bundles)
        return self.layout.lines(self.gather(expert, torch.from_numpy(rows))).reshape(-1, 3)

    def close(self) -> None:
        """Give back files and memory."""
