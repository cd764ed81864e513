"""What a store is: a read-only mapping from an expert to its record of bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch

from moex.store.bundles import Bundles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moex.store.layout import Planes
    from moex.types import Expert, Geometry


class ExpertStore(ABC):
    """Where the master copies live. Nothing is ever written back, so eviction is free."""

    name: str = ""
    layout: Planes | Bundles
    geometry: Geometry
    io: str | None = None
    """How files are read: `direct` (around the page cache), `buffered`; None where none are."""

    whole: ExpertStore | None = None
    """The same experts as places with room for all neurons have them, where files hold both."""

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

    def rows(self, expert: Expert, rows: np.ndarray | None) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield neurons of the expert, some at a time, each as one run of bytes.

        Only stores whose layout is `bundles` can. What was yielded is gone when the next are asked
        for, or is the store's own memory.

        Args:
            expert: whose.
            rows: which [rows], ascending; None for all.

        Yields:
            Which of `rows`, and these [them] of `layout.row_bytes` bytes.
        """
        raise NotImplementedError(f"{type(self).__name__} has no neurons to give")

    def gather(self, expert: Expert, rows: np.ndarray | None) -> torch.Tensor:
        """Return neurons of the expert, as `layout.neurons_of` has them.

        The result may share the store's memory.
        """
        layout = self.layout
        assert isinstance(layout, Bundles)
        count = layout.neurons if rows is None else len(rows)
        out = np.empty(count, f"V{layout.row_bytes}")
        for part, found in self.rows(expert, rows):
            out[part] = found
        return layout.neurons_of(torch.from_numpy(out.view(np.uint8)))

    def close(self) -> None:
        """Give back files and memory."""
