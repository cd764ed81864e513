"""The device slots that experts are loaded into and computed from."""

from __future__ import annotations

import mmap
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar

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
    """`slots` records in one allocation, with the tensors of each ready to compute with.

    Args:
        layout: the layout of one record.
        slots: number of slots, resident and staging together.
        device: the device of the slots.

    Raises:
        RuntimeError: the device has too little memory.
    """

    by_row: ClassVar[bool] = False
    """Whether a load may be of a part of an expert: some of its rows, or a slice."""

    thin: bool = False
    """Whether a slot has no room for all rows of an expert."""

    def __init__(self, layout: Planes, slots: int, device: torch.device | str = "cpu") -> None:
        self.bytes = slots * layout.bytes
        self.records = allocate(self.bytes, slots, device).view(slots, layout.bytes)
        self.tensors = [layout.weights(record) for record in self.records]
        self.ends = layout.ends

    def bring(self, store: ExpertStore, load: Load) -> Callable[[], None]:
        """Return a function that moves the load's bytes into its slot."""
        return partial(store.read, load.expert, self.records[load.slot])

    def computed(
        self, slot: int, absent: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Return the tensors of a slot, and the mask of neurons to leave out (None: none)."""
        return self.tensors[slot], absent

    def whole(self, store: ExpertStore) -> ExpertStore | None:
        """The store whose records equal a slot byte for byte; None: there is none."""
        return store if store.in_pieces else None

    def close(self) -> None:
        """Free the memory, even if the slots are still referenced; `bytes` is kept."""
        self.records, self.tensors = self.records[:0].clone(), []


def allocate(size: int, slots: int, device: torch.device | str) -> torch.Tensor:
    """Return `size` bytes for so many slots, as `paged` does.

    Raises:
        RuntimeError: the device has too little memory.
    """
    try:
        return paged(size, device)
    except (
        RuntimeError,
        MemoryError,
        OSError,
        OverflowError,
    ) as error:  # torch.OutOfMemoryError is a RuntimeError
        raise RuntimeError(
            f"memory: {slots} slots for experts take {size / 1e9:.2f} GB, more than "
            f"{device} has free; expected less: try a smaller memory.slots, or "
            "memory.slots=null and a memory.budget"
        ) from error


def paged(size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return `size` bytes of page-aligned memory, as direct reads need it.

    On a CPU, large allocations use huge pages where the system has them: fewer address translations
    for direct reads and for computing. The memory is newly mapped, because memory reused from the
    heap may be in small pages.

    Raises:
        RuntimeError, MemoryError: too little memory.
    """
    huge = size >= HUGE and torch.device(device).type == "cpu"
    page = HUGE if huge else PAGE
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            mapped = mmap.mmap(-1, -(-size // page) * page + page, flags=flags)
        except (OSError, OverflowError) as error:
            raise MemoryError(str(error)) from error
        with suppress(OSError):  # without huge pages it is only slower
            mapped.madvise(mmap.MADV_HUGEPAGE)
        memory = torch.frombuffer(mapped, dtype=torch.uint8)
    else:
        memory = torch.empty(size + page, dtype=torch.uint8, device=device)
    skipped = -memory.data_ptr() % page
    return memory[skipped : skipped + size]
