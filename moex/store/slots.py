"""The places on the device that experts are loaded into and computed from."""

from __future__ import annotations

import mmap
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import torch

from moex.store.layout import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.store.base import ExpertStore
    from moex.store.layout import Planes
    from moex.types import Load

HUGE = 2 << 20
"""Bytes of a huge page."""


class Slots:
    """`places` records in one allocation, with the tensors of each ready to compute with.

    Args:
        layout: of one record.
        places: residents' slots and staging together.
        device: where they are.

    Raises:
        RuntimeError: there is not so much memory.
    """

    def __init__(self, layout: Planes, slots: int, device: torch.device | str = "cpu") -> None:
        self.bytes = slots * layout.bytes
        try:
            memory = paged(self.bytes, device)
        except (
            RuntimeError,
            MemoryError,
            OSError,
            OverflowError,
        ) as error:  # torch.OutOfMemoryError is a RuntimeError
            raise RuntimeError(
                f"memory: {slots} slots for experts take {self.bytes / 1e9:.2f} GB, which "
                f"{device} does not give; expected less: try a smaller memory.slots, or "
                "memory.slots=null and a memory.budget"
            ) from error
        self.records = memory.view(slots, layout.bytes)
        self.tensors = [layout.weights(record) for record in self.records]
        self.ends = layout.ends

    def bring(self, store: ExpertStore, load: Load) -> Callable[[], None]:
        """What moves the load's bytes to its place."""
        return partial(store.read, load.expert, self.records[load.slot])

    def whole(self, store: ExpertStore) -> ExpertStore | None:
        """The store whose records are what a place holds, byte for byte; None: there is none."""
        return store

    def close(self) -> None:
        """Give the memory back, whoever still has the slots; `bytes` stays."""
        self.records, self.tensors = self.records[:0].clone(), []


def paged(size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return `size` bytes of memory that begin at a page, as direct reads want it.

    On a CPU much memory comes in huge pages where the kernel has them: there is less to look up,
    for direct reads and for computing. It is new memory: what a heap hands out again may lie in
    small pages.

    Raises:
        RuntimeError, MemoryError: there is not so much memory.
    """
    huge = size >= HUGE and torch.device(device).type == "cpu"
    page = HUGE if huge else PAGE
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            mapped = mmap.mmap(-1, -(-size // page) * page + page, flags=flags)
        except (OSError, OverflowError) as error:
            raise MemoryError(str(error)) from error
        with suppress(OSError):  # a kernel that will not is no worse than before
            mapped.madvise(mmap.MADV_HUGEPAGE)
        memory = torch.frombuffer(mapped, dtype=torch.uint8)
    else:
        memory = torch.empty(size + page, dtype=torch.uint8, device=device)
    skipped = -memory.data_ptr() % page
    return memory[skipped : skipped + size]
