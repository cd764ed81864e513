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
        self._held: list[tuple[Expert, int] | None] = [None] * places
        self._rows = np.full((places, capacity), -1)
        """Of thin places: which row is at each position, -1: none."""
        self._at = np.full((places, layout.neurons), -1)
        """The same the other way round."""
        row = np.dtype(f"V{layout.row_bytes // 3}")
        self._lines: list[tuple[np.ndarray, ...]] = []
        """Of every place on a CPU: rows of gate and up, and of down, as runs of bytes."""
        if self.records.device.type == "cpu" and "gate_up" in self.tensors[0]:
            self._lines = [
                (lines(place["gate_up"], row), lines(place["down"], row)) for place in self.tensors
            ]

    def hold(self, place: int, expert: Expert, rows: int) -> None:
        """From now on the place holds these rows (a bitmap); those it lacks get free positions."""
        if not self.thin:
            return
        if self._held[place] == (expert, rows):
            return
        before, self._held[place] = self._held[place], (expert, rows)
        table, at = self._rows[place], self._at[place]
        if before is None or before[0] != expert:
            table[:] = at[:] = -1
        wanted, there = as_mask(rows, self.width), at >= 0
        gone, new = np.flatnonzero(there & ~wanted), np.flatnonzero(wanted & ~there)
        table[at[gone]] = at[gone] = -1
        free = np.flatnonzero(table < 0)[: len(new)]
        table[free], at[new] = new, free

    def positions(self, place: int, rows: np.ndarray) -> np.ndarray:
        """Where rows are in a place."""
        return self._at[place][rows] if self.thin else rows

    def table(self, place: int) -> np.ndarray:
        """Which row is at each position of a thin place; -1: none."""
        return self._rows[place]

    def computed(
        self, place: int, mask: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """What a place's neurons are computed with, and the mask that is left to apply to them."""
        return self.tensors[place], mask

    def bring(self, store: ExpertStore, load: Load) -> Callable[[], None]:
        """What moves the load's bytes; where they go is settled now."""
        if load.rows is None and not self.thin:
            return partial(self._move, store, load.expert, load.slot, None, None)
        rows = self._rows[load.slot] if load.rows is None else members(load.rows, self.width)
        rows = rows[rows >= 0]
        at = self.positions(load.slot, rows)
        return partial(self._move, store, load.expert, load.slot, torch.from_numpy(rows), at)

    def _move(
        self,
        store: ExpertStore,
        expert: Expert,
        place: int,
        rows: torch.Tensor | None,
        at: np.ndarray | None,
    ) -> None:
        neurons = store.gather(expert, rows)
        if at is not None and self._lines:  # several times as fast as torch's indexing
            first, last = self._lines[place]
            found = lines(neurons, first.dtype).reshape(-1, 3)
            first[at], first[at + self.capacity], last[at] = found.T
            return
        down = self.tensors[place]["down"]
        both = self.tensors[place]["gate_up"].view(2, self.capacity, -1)
        if at is None:
            both.copy_(neurons[:, :2].transpose(0, 1))
            down.copy_(neurons[:, 2])
        else:
            both[:, torch.from_numpy(at)] = neurons[:, :2].transpose(0, 1).to(both.device)
            down[torch.from_numpy(at)] = neurons[:, 2].to(down.device)


def lines(tensor: torch.Tensor, row: np.dtype) -> np.ndarray:
    """The rows of a contiguous tensor on the CPU as runs of bytes, sharing its memory."""
    return tensor.view(-1).view(torch.uint8).numpy().view(row)


def members(rows: int | bytes, width: int) -> np.ndarray:
    """The members of a bitmap of `width` rows, in order."""
    return np.flatnonzero(as_mask(rows, width))


def as_mask(rows: int | bytes, width: int) -> np.ndarray:
    """A bitmap of `width` rows as bool [width]."""
    data = rows if isinstance(rows, bytes) else rows.to_bytes(-(-width // 8), "little")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=width, bitorder="little").view(bool)


def bitmap_of(mask: torch.Tensor) -> int:
    """The bitmap of a mask [intermediate]."""
    packed = np.packbits(mask.cpu().numpy(), bitorder="little")
    return int.from_bytes(packed.tobytes(), "little")
