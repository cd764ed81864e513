"""Slots of high slices and, fewer or more, slots of low slices."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from moex.store.slots import Slots, allocate

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from moex.store.base import ExpertStore
    from moex.store.layout import Planes
    from moex.types import Load


class SliceSlots(Slots):
    """`slots` high slices, then `low_slots` low slices, in one allocation.

    A slot of a low slice has the number that follows those of the high slices. An expert computes
    with the tensors of its high slice, or with those of both.

    Args:
        layout: the layout of one record, in two slices.
        slots: number of slots for high slices, resident and staging together.
        low_slots: number of slots for low slices.
        device: the device of the slots.

    Raises:
        RuntimeError: the device has too little memory.
    """

    by_row = True  # a load is of a part of an expert

    def __init__(
        self, layout: Planes, slots: int, low_slots: int, device: torch.device | str = "cpu"
    ) -> None:
        assert len(layout.slices) == 2
        assert layout.bind is not None
        high, low = layout.slices
        self.bytes = slots * high + low_slots * low
        memory = allocate(self.bytes, slots, device)
        self.records = memory[: slots * high].view(slots, high)
        self.low_records = memory[slots * high :].view(low_slots, low)
        self.bind, self.ends = layout.bind, layout.ends
        self._high = [layout.views(record) for record in self.records]
        self._low = [layout.views(record, high) for record in self.low_records]
        self.tensors = [layout.bind(views) for views in self._high]

    def bring(self, store: ExpertStore, load: Load) -> Callable[[], None]:
        """Return a function that moves the slice of a load into its slot."""
        assert load.span is not None
        slots = len(self.records)
        low = load.slot >= slots
        record = self.low_records[load.slot - slots] if low else self.records[load.slot]
        return partial(store.read_slice, load.expert, load.span, record)

    def both(self, slot: int, low: int) -> dict[str, Any]:
        """Return what to compute with from the slots of an expert's high and low slice."""
        return self.bind(self._high[slot] | self._low[low - len(self.records)])

    def whole(self, store: ExpertStore) -> ExpertStore | None:
        """None: no slot holds a whole record."""
        return None

    def close(self) -> None:
        """Free the memory."""
        super().close()
        self.low_records, self._high, self._low = self.low_records[:0].clone(), [], []
