"""Foreign records: experts in the very bytes of a packed checkpoint, decoded where they are used.

A `Format` is how a file holds one matrix. `Stored` is the quantizer of a weight that consists of
such matrices: it never packs, the loader copies the file's tensors into the record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from moex.quant.base import Quantizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moex.quant.base import Spec


FEW = 16
"""Tokens up to which a kernel that works row by row is used."""


class Format(ABC):
    """How a file holds one matrix [out, in].

    To add one: a subclass in a new file here, called as `quant_method` in the config.json of such
    checkpoints. It is constructed with the other settings of `quantization_config`.
    """

    suffixes: ClassVar[Mapping[str, str]]
    """The tensors of a matrix: their names in a record, and what follows the matrix's own name in
    the file."""
    stacked: ClassVar[bool] = False
    """Whether a tensor in the file holds all experts of a layer."""
    pieces: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "gate_up_proj": ("both",),
        "up_proj": ("up",),
        "down_proj": ("down",),
    }
    """The matrices that the file has of each weight."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Take a checkpoint's settings; refuse, with a ValueError, what is not decoded here."""

    def of(self, piece: str) -> Format:
        """Return the format of one matrix of each expert."""
        return self

    @property
    @abstractmethod
    def name(self) -> str:
        """What the settings amount to, for the row and for messages."""

    @abstractmethod
    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return name, shape and dtype of the file's tensors of one expert's matrix [out, in].

        Raises:
            ValueError: the format has no matrix of this shape.
        """

    def product(self, x: Tensor, stored: Mapping[str, Tensor]) -> Tensor | None:
        """Return `x @ matrix.T` of a few tokens [n, in] without decoding all of it.

        None where the format has no such kernel on a CPU.
        """
        return None

    @abstractmethod
    def decode(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the matrix [out, in]: exactly what the file's own library makes of it."""


class Stored(Quantizer):
    """A weight in the bytes of its checkpoint: one or several matrices, one below the other.

    Args:
        pieces: the format of every matrix, all of equally many rows.
        interleaved: whether their rows take turns (gate 0, up 0, gate 1, ...).
        transposed: whether the model multiplies with the weight as [in, out].

    `kernel` is "reference", or "rows" for the format's `product`, where it has one.
    """

    key = "quant"
    kernel = "reference"

    def __init__(
        self, pieces: Mapping[str, Format], interleaved: bool = False, transposed: bool = False
    ) -> None:
        self.pieces, self.interleaved, self.transposed = dict(pieces), interleaved, transposed

    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return name, shape and dtype of the file's tensors of one expert's weight [out, in]."""
        rows = shape[0] // len(self.pieces)
        return {
            f"{piece}.{part}": spec
            for piece, form in self.pieces.items()
            for part, spec in form.tensors((rows, shape[1])).items()
        }

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """Refuse: a checkpoint's bytes are copied, not made.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "quant=checkpoint: takes the bytes of a checkpoint, and makes none of a weight; "
            "expected a checkpoint in files; try quant=hqq"
        )

    def unpack(self, packed: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Decode the weight [out, in]."""
        found = [form.decode(_of(piece, packed), dtype) for piece, form in self.pieces.items()]
        if len(found) == 1:
            return found[0]
        return torch.stack(found, 1).flatten(0, 1) if self.interleaved else torch.cat(found)

    def matmul(self, x: Tensor, packed: Mapping[str, Tensor]) -> Tensor:
        """Decode, then multiply as the model would with the decoded weight: bit for bit.

        With `kernel` "rows" few tokens are multiplied without decoding the weight first.
        """
        if self.kernel == "rows" and not x.is_cuda and x.numel() // x.shape[-1] <= FEW:
            found = self._by_rows(x.reshape(-1, x.shape[-1]), packed)
            if found is not None:
                return found.to(x.dtype).view(*x.shape[:-1], -1)
        weight = self.unpack(packed, x.dtype)
        return x @ weight.t().contiguous() if self.transposed else functional.linear(x, weight)

    def _by_rows(self, x: Tensor, packed: Mapping[str, Tensor]) -> Tensor | None:
        """The product of every piece, next to each other or in turn."""
        found = [form.product(x, _of(piece, packed)) for piece, form in self.pieces.items()]
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            return None
        return torch.stack(parts, 2).flatten(1) if self.interleaved else torch.cat(parts, 1)

    def kernel_name(self, shape: tuple[int, int]) -> str:
        """Return the name of the kernel."""
        return self.kernel

    def settings(self, shape: tuple[int, int]) -> dict[str, Any]:
        """All settings that determine the record's bytes, beside the checkpoint's files."""
        pieces = {piece: form.name for piece, form in self.pieces.items()}
        return {"stored": pieces, "interleaved": self.interleaved}


def _of(piece: str, packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one piece of a packed weight."""
    start = piece + "."
    return {name[len(start) :]: each for name, each in packed.items() if name.startswith(start)}
