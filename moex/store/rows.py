"""Places that hold some rows of an expert, and which row lies where in them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from moex.store.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.store.base import ExpertStore
    from moex.store.bundles import Bundles
    from moex.types import Expert, Load


class RowSlots(Slots):
    """`places` places of `capacity` rows each, in planes.

    A place that has room for all keeps row j at position j, so that every sum is taken in one order
    whatever is there. In a smaller one a row takes any free position.

    Args:
        layout: of the store's records.
        capacity: rows that a place holds.
        places: residents' slots and staging together.
        device: where they are.
    """

    def __init__(
        self,
        layout: Bundles,
        capacity: int,
        places: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(layout.planes(capacity), places, device)
        self.records.zero_()  # what is not there is multiplied by zero, and must be a number
        self.neurons, self.capacity, self.width = layout, capacity, layout.neurons
        self.thin = capacity < layout.neurons
        self._expert: list[Expert | None] = [None] * places
        self._rows = np.full((places, capacity), -1)
        """Of thin places: which row is at each position, -1: none."""

    def hold(self, place: int, expert: Expert, rows: int) -> None:
        """From now on the place holds these rows (a bitmap); those it lacks get free positions."""
        if not self.thin:
            return
        table = self._rows[place]
        if self._expert[place] != expert:
            self._expert[place] = expert
            table[:] = -1
        wanted = members(rows, self.width)
        table[~np.isin(table, wanted)] = -1
        new = wanted[~np.isin(wanted, table)]
        table[np.flatnonzero(table < 0)[: len(new)]] = new

    def positions(self, place: int, rows: np.ndarray) -> np.ndarray:
        """Where rows are in a place."""
        if not self.thin:
            return rows
        table = self._rows[place]
        order = np.argsort(table)
        return order[np.searchsorted(table, rows, sorter=order)]

    def table(self, place: int) -> np.ndarray:
        """Which row is at each position of a thin place; -1: none."""
        return self._rows[place]

    def bring(self, store: ExpertStore, load: Load) -> Callable[[], None]:
        """What moves the load's bytes; where they go is settled now."""
        if load.rows is None and not self.thin:
            return partial(self._move, store, load.expert, load.slot, None, None)
        rows = self._rows[load.slot] if load.rows is None else members(load.rows, self.width)
        rows = rows[rows >= 0]
        at = self.positions(load.slot, rows)
        wanted, positions = (torch.from_numpy(each) for each in (rows, at))
        return partial(self._move, store, load.expert, load.slot, wanted, positions)

    def _move(
        self,
        store: ExpertStore,
        expert: Expert,
        place: int,
        rows: torch.Tensor | None,
        at: torch.Tensor | None,
    ) -> None:
        neurons = store.gather(expert, rows)
        gate_up, down = self.tensors[place]["gate_up"], self.tensors[place]["down"]
        both = gate_up.view(2, self.capacity, -1)
        if at is None:
            both.copy_(neurons[:, :2].transpose(0, 1))
            down.copy_(neurons[:, 2])
        else:
            both[:, at] = neurons[:, :2].transpose(0, 1).to(both.device)
            down[at] = neurons[:, 2].to(down.device)


def members(rows: int | bytes, width: int) -> np.ndarray:
    """The members of a bitmap of `width` rows, in order."""
    data = rows if isinstance(rows, bytes) else rows.to_bytes(-(-width // 8), "little")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=width, bitorder="little")
    return np.flatnonzero(bits)


def bitmap_of(mask: torch.Tensor) -> int:
    """The bitmap of a mask [intermediate]."""
    packed = np.packbits(mask.cpu().numpy(), bitorder="little")
    return int.from_bytes(packed.tobytes(), "little")
