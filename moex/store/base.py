"""The interface of a store: a read-only mapping from an expert to its record of bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from moex.paths import plug_in
from moex.store.slots import paged
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moex.types import Geometry


def store_class(word: str) -> Any:
    """The class that `memory.store` names; auto: files, unless CUDA leaves host memory to experts.

    Raises:
        ValueError: there is none.
    """
    usual = "ram" if torch.cuda.is_available() else "disk"
    return plug_in("memory.store", usual if word == "auto" else word, "store", "Store")


class ExpertStore(ABC):
    """Holds the master copies of all experts. Nothing is written back, so eviction is free.

    One `from_files` is opened on a packed folder: `Store(folder, layout, geometry)`. Any other is
    made empty, `Store(layout, geometry)`, and filled: it defines `write`.
    """

    name: str = ""
    from_files: ClassVar[bool] = False
    layout: Any
    """`Planes` or `Bundles`."""
    geometry: Geometry
    io: str | None = None
    """How files are read: `direct` (around the page cache) or `buffered`; None: no files.
    Links that read files use what `DiskStore` has besides this interface."""

    in_pieces: ClassVar[bool] = True
    """Whether a store of files reads records in pieces (`DiskStore.read_part`, `where`)."""

    whole: ExpertStore | None = None
    """A store of the same experts in the layout of full-size slots, if files hold both layouts."""

    in_memory: bool = False
    """Whether experts are in host memory, ready to compute with: `tensors` works, and `records` has
    a tensor [experts, bytes] a layer."""

    @property
    def files_warm(self) -> bool | None:
        """Whether reads may be served by the page cache; None where no files are read."""
        return None if self.io is None else self.io != "direct"

    @abstractmethod
    def read(self, expert: Expert, out: torch.Tensor) -> None:
        """Copy the expert's record into `out` (uint8, `layout.bytes` long)."""

    def read_slice(self, expert: Expert, span: tuple[int, int], out: torch.Tensor) -> None:
        """Copy the bytes `span` of the expert's record into `out`: whole slices of the layout."""
        record = paged(self.layout.bytes)
        self.read(expert, record)
        out.copy_(record[slice(*span)])

    def write(self, expert: Expert, record: torch.Tensor) -> None:
        """Keep an expert's record (uint8, `layout.bytes` long), which is reused afterwards."""
        raise NotImplementedError(f"{type(self).__name__} is opened on files, and keeps no records")

    def put(self, expert: Expert, tensors: Mapping[str, torch.Tensor]) -> None:
        """Store one expert's tensors."""
        record = torch.zeros(self.layout.bytes, dtype=torch.uint8)
        self.layout.pack(record, tensors)
        self.write(expert, record)

    def fill(self, source: ExpertStore) -> Self:
        """Store all experts of another store, which is then closed."""
        record, geometry = paged(self.layout.bytes), self.geometry
        with closing(source):
            for each in product(range(geometry.layers), range(geometry.experts)):
                source.read(Expert(*each), record)
                self.write(Expert(*each), record)
        return self

    def tensors(self, expert: Expert) -> dict[str, torch.Tensor]:
        """Return the expert's tensors, sharing the store's memory; only if `in_memory`."""
        raise NotImplementedError(
            f"{type(self).__name__} has no experts in memory; try memory.store=ram"
        )

    def rows(self, expert: Expert, rows: np.ndarray | None) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield neurons of the expert, some at a time, each as one contiguous run of bytes.

        Only for the layout `bundles`. A yielded array is valid until the next one is requested;
        it may share the store's memory.

        Args:
            expert: the expert to read.
            rows: indices of the neurons [rows], ascending; None for all.

        Yields:
            A slice of `rows`, and its neurons [slice] of `layout.row_bytes` bytes each.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot read single neurons")

    def gather(self, expert: Expert, rows: np.ndarray | None) -> torch.Tensor:
        """Return neurons of the expert in the form of `layout.neurons_of`.

        The result may share the store's memory.
        """
        layout = self.layout
        count = layout.neurons if rows is None else len(rows)
        out = np.empty(count, f"V{layout.row_bytes}")
        for part, found in self.rows(expert, rows):
            out[part] = found
        return layout.neurons_of(torch.from_numpy(out.view(np.uint8)))

    def close(self) -> None:
        """Close files and free memory."""
