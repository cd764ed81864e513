"""The places on the device that experts are loaded into and computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moex.store.layout import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

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
        self.records = paged(self.bytes, device).view(places, layout.bytes)
        self.tensors: list[dict[str, Any]] = [layout.views(record) for record in self.records]

    def join(self, bind: Callable[[dict[str, torch.Tensor]], dict[str, Any]]) -> None:
        """Let every place's tensors be what `bind` makes of them: packed weights."""
        self.tensors = [bind(views) for views in self.tensors]


def paged(size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return `size` bytes of memory that begin at a page, as direct reads want it."""
    memory = torch.empty(size + PAGE, dtype=torch.uint8, device=device)
    skipped = -memory.data_ptr() % PAGE
    return memory[skipped : skipped + size]
