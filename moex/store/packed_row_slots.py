"""Places that hold packed rows: few bits on the link and in the place, all of them to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.store.row_slots import RowSlots

if TYPE_CHECKING:
    import torch

    from moex.store.base import ExpertStore
    from moex.store.bundles import PackedBundles


class PackedRowSlots(RowSlots):
    """Rows stay as they came; those that a visit computes are unpacked, one expert's at a time.

    So a place takes the bytes that it is counted with, and what no mask names is never unpacked.
    """

    neurons: PackedBundles

    def whole(self, store: ExpertStore) -> ExpertStore | None:
        """The store itself where places have room for all: there, too, neurons lie packed."""
        return None if self.thin else store

    def computed(
        self, slot: int, absent: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Unpack what any token needs, all but what is absent [tokens or 1, capacity]."""
        rows = self.tensors[slot]["packed"]
        if absent is not None:
            some = (~absent).any(0).nonzero().squeeze(1)
            rows = rows.index_select(0, some)
            absent = None if len(absent) == 1 else absent[:, some]
        return self.neurons.form.unpack(rows), absent

    def _put(self, slot: int, neurons: torch.Tensor, where: slice | torch.Tensor) -> None:
        self.tensors[slot]["packed"][where] = neurons
