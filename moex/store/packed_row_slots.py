"""Slots that hold quantized rows: packed on the link and in the slot, unpacked to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.store.row_slots import RowSlots

if TYPE_CHECKING:
    import torch

    from moex.store.base import ExpertStore
    from moex.store.bundles import PackedBundles


class PackedRowSlots(RowSlots):
    """Rows stay packed; those that a visit computes with are unpacked, one expert at a time.

    So a slot takes exactly the bytes it is counted with, and rows outside every mask stay packed.
    """

    neurons: PackedBundles

    def whole(self, store: ExpertStore) -> ExpertStore | None:
        """The store itself if slots have room for all rows: both hold the same packed bytes."""
        return None if self.thin else store

    def computed(
        self, slot: int, absent: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Unpack the rows that any token needs: all but `absent` [tokens or 1, capacity]."""
        rows = self.tensors[slot]["packed"]
        if absent is not None:
            some = (~absent).any(0).nonzero().squeeze(1)
            rows = rows.index_select(0, some)
            absent = None if len(absent) == 1 else absent[:, some]
        return self.neurons.form.unpack(rows), absent

    def _put(self, slot: int, neurons: torch.Tensor, where: slice | torch.Tensor) -> None:
        self.tensors[slot]["packed"][where] = neurons
