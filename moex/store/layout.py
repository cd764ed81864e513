"""How one expert is laid out as a record of bytes.

`planes`, the default, holds the very tensors that the kernel computes with, one after the other, so
that a load is one copy and exactness is free.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

ALIGNMENT = 64
"""Every tensor of a record begins at a multiple of this: a cache line, and torch's alignment."""

PAGE = 4096
"""A record is a whole number of these, so that files can be read straight into its memory."""


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
        tensors: name, shape and dtype of an expert's tensors, in the order of the kernel's use.
        bind: makes of them what is computed with, where that is something else: packed weights.
    """

    name = "planes"
    neurons = row_bytes = 0
    """Of records that are read in rows; these are read whole."""

    def __init__(
        self,
        tensors: Mapping[str, tuple[Sequence[int], torch.dtype]],
        bind: Callable[[dict[str, torch.Tensor]], dict[str, Any]] | None = None,
    ) -> None:
        parts, offset = [], 0
        for name, (shape, dtype) in tensors.items():
            size = prod(shape) * dtype.itemsize
            parts.append(Part(name, tuple(shape), dtype, offset, size))
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        self.parts, self.bytes = tuple(parts), -(-offset // PAGE) * PAGE
        self.ends = {part.name.partition(".")[0]: part.offset + part.bytes for part in parts}
        """By the name of a weight: how much of a record has to be there to compute with it."""
        self.bind = bind

    def weights(self, record: torch.Tensor) -> dict[str, Any]:
        """Return what to compute with, by the name of the weight, sharing a record's memory."""
        views = self.views(record)
        return views if self.bind is None else self.bind(views)

    def views(self, record: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors that lie in a record (uint8, `bytes` long), sharing its memory."""
        return {
            part.name: record[part.offset : part.offset + part.bytes]
            .view(part.dtype)
            .view(part.shape)
            for part in self.parts
        }

    def pack(self, record: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill a record; what is between its tensors is left alone."""
        for name, view in self.views(record).items():
            view.copy_(tensors[name])
