"""How one expert is laid out as a record of bytes.

`planes`, the default, holds the tensors exactly as the matmul kernel takes them, one after the
other, so a load is one copy and changes no bit.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import torch

    from moex.store.slots import Slots

ALIGNMENT = 64
"""Every tensor of a record begins at a multiple of this: a cache line, and torch's alignment."""

PAGE = 4096
"""Records are a whole number of pages, so that files can be read straight into their memory."""


class Part(NamedTuple):
    """One tensor of a record."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    bytes: int


class Planes:
    """The layout of whole tensors, each aligned to 64 bytes; `bytes` is a whole number of pages.

    Args:
        tensors: name, shape and dtype of an expert's tensors, in the order of their use.
        bind: turns the tensors into what is computed with, for packed weights.
        refining: names of the last tensors, without which it computes in fewer bits: they are a
            slice of their own, which begins on a page.
    """

    name = "planes"
    neurons = row_bytes = 0
    """Only for layouts that are read row by row; this one is read whole."""
    by_neuron = False
    """Whether single neurons can be computed: `down` lies transposed, as their rows."""

    def __init__(
        self,
        tensors: Mapping[str, tuple[Sequence[int], torch.dtype]],
        bind: Callable[[dict[str, torch.Tensor]], dict[str, Any]] | None = None,
        refining: Collection[str] = (),
    ) -> None:
        parts, offset, high = [], 0, 0
        for name, (shape, dtype) in tensors.items():
            if name in refining and not high:
                high = offset = -(-offset // PAGE) * PAGE
            size = prod(shape) * dtype.itemsize
            parts.append(Part(name, tuple(shape), dtype, offset, size))
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        self.parts, self.bytes = tuple(parts), -(-offset // PAGE) * PAGE
        self.slices = (high, self.bytes - high) if high else (self.bytes,)
        """Bytes of the slices of a record: the first computes alone."""
        self.ends = {part.name.partition(".")[0]: part.offset + part.bytes for part in parts}
        """By weight name: bytes of the record that must have arrived to compute with it."""
        self.bind = bind

    def slots(self, count: int, rows: int, device: torch.device | str, low_slots: int = 0) -> Slots:
        """Make slots that hold whole records (`rows` does not matter), or high slices.

        And with those, `low_slots` for low slices.
        """
        from moex.store.slice_slots import SliceSlots
        from moex.store.slots import Slots

        if low_slots:
            return SliceSlots(self, count, low_slots, device)
        return Slots(self, count, device)

    def weights(self, record: torch.Tensor) -> dict[str, Any]:
        """Return what to compute with, by weight name, sharing the record's memory."""
        views = self.views(record)
        return views if self.bind is None else self.bind(views)

    def views(self, record: torch.Tensor, start: int = 0) -> dict[str, torch.Tensor]:
        """Return the tensors of a record (uint8, `bytes` long), sharing its memory.

        Or of a slice of it, which begins at byte `start` of the record.
        """
        return {
            part.name: record[part.offset - start : part.offset - start + part.bytes]
            .view(part.dtype)
            .view(part.shape)
            for part in self.parts
            if start <= part.offset < start + len(record)
        }

    def pack(self, record: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill a record; padding between its tensors is not written."""
        for name, view in self.views(record).items():
            view.copy_(tensors[name])
