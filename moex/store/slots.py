"""The places on the device that experts are loaded into and computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from moex.store.layout import Planes


class Slots:
    """`places` records in one allocation, with the tensors of each ready to compute with.

    Args:
        layout: of one record.
        places: residents' slots and staging together.
        device: where they are.
    """

    def __init__(self, layout: Planes, places: int, device: torch.device | str = "cpu") -> None:
        self.bytes = places * layout.bytes
        self.records = torch.empty(places, layout.bytes, dtype=torch.uint8, device=device)
        self.tensors = [layout.views(record) for record in self.records]
