"""Places that hold packed rows: few bits on the link and in the place, all of them to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moex.store.rows import RowSlots

if TYPE_CHECKING:
    import numpy as np

    from moex.store.base import ExpertStore
    from moex.store.bundles import PackedBundles
    from moex.types import Expert


class PackedRowSlots(RowSlots):
    """Rows stay as they came; those that a visit computes are unpacked, one expert's at a time.

    So a place takes the bytes that it is counted with, and what no mask names is never unpacked.
    """

    neurons: PackedBundles

    def computed(
        self, place: int, absent: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Unpack what any token needs, all but what is absent [tokens or 1, capacity]."""
        rows = self.tensors[place]["packed"]
        if absent is not None:
            some = (~absent).any(0).nonzero().squeeze(1)
            rows = rows.index_select(0, some)
            absent = None if len(absent) == 1 else absent[:, some]
        return self.neurons.form.unpack(rows), absent

    def _move(
        self,
        store: ExpertStore,
        expert: Expert,
        place: int,
        rows: np.ndarray | None,
        at: np.ndarray | None,
    ) -> None:
        found = store.gather(expert, None if rows is None else torch.from_numpy(rows))
        packed = self.tensors[place]["packed"]
        if at is None:
            packed.copy_(found)
        else:
            packed[torch.from_numpy(at).to(packed.device)] = found.to(packed.device)
