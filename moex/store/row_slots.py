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


LARGE = 4 << 20
"""Bytes of an expert from which on several threads lay it out sooner than one."""


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
        slots: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(layout.planes(capacity), slots, device)
        self.records.zero_()  # what is not there is multiplied by zero, and must be a number
        self.neurons, self.capacity, self.width = layout, capacity, layout.neurons
        self.thin = capacity < layout.neurons
        self._every = (1 << 8 * (-(-self.width // 8) + 1)) - 1
        """All rows and a byte more, for positions where none is: they count as row -1."""
        empty = np.full(capacity, -1) if self.thin else np.arange(capacity)
        self.tables = np.tile(empty, (slots, 1))
        """Which row is at each position of a place; -1: none."""
        self._coming: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        """Of the latest load into a thin place: rows, and where they go."""
        self._lines: list[tuple[np.ndarray, ...]] = []
        """Of every place on a CPU: rows of gate and up, and of down, as runs of bytes."""
        if self.records.device.type == "cpu" and "gate_up" in self.tensors[0]:
            self._lines = [
                (layout.lines(slot["gate_up"]), layout.lines(slot["down"])) for slot in self.tensors
            ]

    def hold(self, load: Load, rows: int) -> None:
        """Settle where the rows of a load go, in a place that then holds `rows` (a bitmap)."""
        if not self.thin:
            return
        slot, table = load.slot, self.tables[load.slot]
        coming = rows if load.rows is None else int.from_bytes(load.rows, "little")
        if kept := rows & ~coming:
            new, gone = self._masks(coming, ~kept)
            new, free = new.nonzero()[0], gone[table].nonzero()[0]
            table[free] = -1
            at = free[: len(new)]
        else:
            new = self._masks(coming)[0].nonzero()[0]
            table[len(new) :] = -1
            at = np.arange(len(new))
        table[at] = new
        self._coming[slot] = new, at

    def without(self, slot: int, rows: int) -> np.ndarray:
        """At which positions of a place lies none of these rows (a bitmap): bool [capacity]."""
        return self._masks(~rows)[0][self.tables[slot]]

    def _masks(self, *rows: int) -> np.ndarray:
        """Bitmaps as bool [bitmaps, more than all rows]; the last column is of positions empty."""
        size = self._every.bit_length() // 8
        data = b"".join([(each & self._every).to_bytes(size, "little") for each in rows])
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits.view(bool).reshape(len(rows), -1)

    def computed(
        self, slot: int, absent: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """What a place's neurons are computed with, and which of these are to be left out."""
        return self.tensors[slot], absent

    def bring(self, store: ExpertStore, load: Load) -> Callable[[], None]:
        """What moves the load's bytes; where they go is settled now."""
        if self.thin:
            rows, at = self._coming.pop(load.slot)
        elif load.rows is None:
            return partial(self._move, store, load.expert, load.slot, None, None)
        else:
            rows = at = members(load.rows)
        return partial(self._move, store, load.expert, load.slot, rows, at)

    def whole(self, store: ExpertStore) -> ExpertStore | None:
        """Where places have room for all neurons, the store that has them as they do, if any."""
        return None if self.thin else store.whole

    def _move(
        self,
        store: ExpertStore,
        expert: Expert,
        slot: int,
        rows: np.ndarray | None,
        at: np.ndarray | None,
    ) -> None:
        source = self.whole(store) if rows is None else None
        if source is not None:
            source.read(expert, self.records[slot])
            return
        where = np.arange(self.width) if at is None else at
        large = self.neurons.bytes > LARGE and rows is None and store.in_memory
        if self._lines and not large:
            first, last = self._lines[slot]
            for part, found in store.rows(expert, rows):
                some, lines = where[part], found.view(first.dtype).reshape(-1, 3)
                first[some], first[some + self.capacity], last[some] = lines.T
            return
        # Slower for some rows, and for small experts, but by all threads for all of a large one.
        neurons = store.gather(expert, rows).to(self.records.device)
        self._put(slot, neurons, slice(None) if at is None else torch.from_numpy(at))

    def _put(self, slot: int, neurons: torch.Tensor, where: slice | torch.Tensor) -> None:
        """Lay neurons, as the store has them, at these positions of a place."""
        both = self.tensors[slot]["gate_up"].view(2, self.capacity, -1)
        both[:, where] = neurons[:, :2].transpose(0, 1)
        self.tensors[slot]["down"][where] = neurons[:, 2]

    def close(self) -> None:
        """Give the memory back."""
        super().close()
        self._lines = []


def members(rows: bytes) -> np.ndarray:
    """The members of a bitmap, in order."""
    return np.unpackbits(np.frombuffer(rows, np.uint8), bitorder="little").nonzero()[0]


def bitmaps_of(masks: torch.Tensor) -> list[int]:
    """The bitmap of each of several masks [experts, intermediate]."""
    packed = np.packbits(masks.cpu().numpy(), axis=-1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]
