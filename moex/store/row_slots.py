"""Slots that hold some rows of an expert, with a table of which row is at which position.

Rows are whole, or quantized: packed on the link and in the slot, unpacked to compute.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from moex.store.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.store.base import ExpertStore
    from moex.store.bundles import Bundles, PackedBundles
    from moex.types import Expert, Load


LARGE = 4 << 20
"""Bytes of an expert above which several threads rearrange it faster than one."""


class RowSlots(Slots):
    """`slots` slots of `capacity` rows each, stored as planes.

    A slot with room for all rows keeps row j at position j, so that every sum has the same order
    whichever rows are resident. In a smaller slot a row takes any free position.

    Args:
        layout: the layout of the store's records.
        capacity: rows per slot.
        slots: number of slots, resident and staging together.
        device: the device of the slots.
    """

    by_row = True

    def __init__(
        self,
        layout: Bundles,
        capacity: int,
        slots: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(layout.planes(capacity), slots, device)
        self.records.zero_()  # absent rows are multiplied by zero, so they must not be NaN
        self.neurons, self.capacity, self.width = layout, capacity, layout.neurons
        self.thin = capacity < layout.neurons
        self._every = (1 << 8 * (-(-self.width // 8) + 1)) - 1
        """Bitmap of all rows and one more byte: empty positions count as row -1."""
        empty = np.full(capacity, -1) if self.thin else np.arange(capacity)
        self.tables = np.tile(empty, (slots, 1))
        """The row at each position of a slot [slots, capacity]; -1: none."""
        self._incoming: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        """By slot with less than full capacity: rows of the latest load, and their positions."""
        self._lines: list[tuple[np.ndarray, ...]] = []
        """By slot, on a CPU only: rows of gate_up and of down, as runs of bytes."""
        if self.records.device.type == "cpu" and "gate_up" in self.tensors[0]:
            self._lines = [
                (layout.lines(slot["gate_up"]), layout.lines(slot["down"])) for slot in self.tensors
            ]

    def hold(self, load: Load, rows: int) -> None:
        """Assign positions to the rows of a load; the slot then holds `rows` (a bitmap)."""
        if not self.thin:
            return
        slot, table = load.slot, self.tables[load.slot]
        incoming = rows if load.rows is None else int.from_bytes(load.rows, "little")
        if kept := rows & ~incoming:
            new, gone = self._masks(incoming, ~kept)
            new, free = new.nonzero()[0], gone[table].nonzero()[0]
            table[free] = -1
            at = free[: len(new)]
        else:
            new = self._masks(incoming)[0].nonzero()[0]
            table[len(new) :] = -1
            at = np.arange(len(new))
        table[at] = new
        self._incoming[slot] = new, at

    def without(self, slot: int, rows: int) -> np.ndarray:
        """The positions of a slot that hold none of `rows` (a bitmap): bool [capacity]."""
        return self._masks(~rows)[0][self.tables[slot]]

    def _masks(self, *rows: int) -> np.ndarray:
        """Bitmaps as bool [bitmaps, all rows and more]; the last column is for empty positions."""
        size = self._every.bit_length() // 8
        data = b"".join([(each & self._every).to_bytes(size, "little") for each in rows])
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits.view(bool).reshape(len(rows), -1)

    def bring(self, store: ExpertStore, load: Load) -> Callable[[], None]:
        """Return a function that moves the load's bytes; their positions are fixed now."""
        if self.thin:
            rows, at = self._incoming.pop(load.slot)
        elif load.rows is None:
            return partial(self._move, store, load.expert, load.slot, None, None)
        else:
            rows = at = members(load.rows)
        return partial(self._move, store, load.expert, load.slot, rows, at)

    def whole(self, store: ExpertStore) -> ExpertStore | None:
        """The store whose records equal a full-size slot, if slots are full-size and it exists."""
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
        # Uses all threads: faster for all rows of a large expert, slower for few rows.
        neurons = store.gather(expert, rows).to(self.records.device)
        self._put(slot, neurons, slice(None) if at is None else torch.from_numpy(at))

    def _put(self, slot: int, neurons: torch.Tensor, where: slice | torch.Tensor) -> None:
        """Write neurons in the store's form to positions of a slot."""
        both = self.tensors[slot]["gate_up"].view(2, self.capacity, -1)
        both[:, where] = neurons[:, :2].transpose(0, 1)
        self.tensors[slot]["down"][where] = neurons[:, 2]

    def close(self) -> None:
        """Free the memory."""
        super().close()
        self._lines = []


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


def members(rows: bytes) -> np.ndarray:
    """The indices of the bits set in a bitmap, ascending."""
    return np.unpackbits(np.frombuffer(rows, np.uint8), bitorder="little").nonzero()[0]


def bitmaps_of(masks: torch.Tensor) -> list[int]:
    """The bitmap of each of several masks [experts, intermediate]."""
    packed = np.packbits(masks.cpu().numpy(), axis=-1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]
