"""The block types of GGUF files: rows of blocks of 32 or 256 numbers, with their scales inside.

Arithmetic and its order are those of llama.cpp's reference (`ggml-quants.c`), in float32, so every
number is the same bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from moex.quant.formats.base import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moex.quant.base import Spec

CHUNK = 1 << 18
"""Numbers that are decoded at a time: they fit a processor's cache."""


class Block(NamedTuple):
    """A block type: its number in files, numbers and bytes of a block, and how it is decoded."""

    number: int
    numbers: int
    bytes: int
    decode: Callable[[Tensor], Tensor]


def _half(blocks: Tensor, at: int) -> Tensor:
    """The 16-bit float at an offset of every block [n, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(raw: Tensor, run: int) -> Tensor:
    """Halves of bytes: the low ones of every run of bytes, then its high ones."""
    runs = raw.reshape(len(raw), -1, 1, run)
    return torch.cat((runs & 15, runs >> 4), 2).view(len(raw), -1)


def _bits(raw: Tensor) -> Tensor:
    """The bits of every byte, the lowest first."""
    return (raw[..., None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(1)


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float() * _half(blocks, 0)


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:], 16).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:], 16).float() + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    codes = _nibbles(blocks[:, 6:], 16) | _bits(blocks[:, 2:6]) << 4
    return _half(blocks, 0) * (codes.float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    codes = _nibbles(blocks[:, 8:], 16) | _bits(blocks[:, 4:8]) << 4
    return _half(blocks, 0) * codes.float() + _half(blocks, 2)


def _scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and offsets [n, 8, 1] of a block's eight groups: 6 bits each, in 12 bytes."""
    scale, offset, high = blocks[:, 4:16].split(4, 1)
    scales = torch.cat((scale & 63, high & 15 | scale >> 2 & 48), 1).float()
    offsets = torch.cat((offset & 63, high >> 4 | offset >> 2 & 48), 1).float()
    return (_half(blocks, 0) * scales)[..., None], (_half(blocks, 2) * offsets)[..., None]


def _q4_k(blocks: Tensor) -> Tensor:
    scale, offset = _scales(blocks)
    codes = _nibbles(blocks[:, 16:], 32).view(-1, 8, 32)
    return scale * codes.float() - offset


def _q5_k(blocks: Tensor) -> Tensor:
    scale, offset = _scales(blocks)
    fifth = blocks[:, None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
    codes = _nibbles(blocks[:, 48:], 32).view(-1, 8, 32) | fifth << 4
    return scale * codes.float() - offset


def _q6_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float()
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3
    codes = _nibbles(blocks[:, :128], 64) | high.reshape(-1, 256) << 4
    return (_half(blocks, 208) * scales)[..., None] * (codes.view(-1, 16, 16).float() - 32)


def _mxfp4(blocks: Tensor) -> Tensor:
    power = blocks[:, :1].int()
    bits = torch.where(power < 2, 0x00200000 << power.clamp(max=1), (power - 1) << 23)
    doubled = torch.tensor([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12.0])
    return bits.view(torch.float32) * doubled[_nibbles(blocks[:, 1:], 16).int()]


BLOCKS = {
    "F32": Block(0, 1, 4, lambda blocks: blocks.view(torch.float32)),
    "F16": Block(1, 1, 2, lambda blocks: blocks.view(torch.float16).float()),
    "Q4_0": Block(2, 32, 18, _q4_0),
    "Q4_1": Block(3, 32, 20, _q4_1),
    "Q5_0": Block(6, 32, 22, _q5_0),
    "Q5_1": Block(7, 32, 24, _q5_1),
    "Q8_0": Block(8, 32, 34, _q8_0),
    "Q4_K": Block(12, 256, 144, _q4_k),
    "Q5_K": Block(13, 256, 176, _q5_k),
    "Q6_K": Block(14, 256, 210, _q6_k),
    "BF16": Block(30, 1, 2, lambda blocks: blocks.view(torch.bfloat16).float()),
    "MXFP4": Block(39, 32, 17, _mxfp4),
}
"""The types that are decoded; BF16 and floats are of one number a block."""
NAMES = {block.number: name for name, block in BLOCKS.items()}


def decode(raw: Tensor, kind: str) -> Tensor:
    """Decode rows [..., bytes] of a block type to float32 [..., numbers]."""
    block = BLOCKS[kind]
    blocks = raw.reshape(-1, block.bytes)
    out = torch.empty(len(blocks), block.numbers)
    step = max(1, CHUNK // block.numbers)
    for given, to in zip(blocks.split(step), out.split(step), strict=True):
        to.copy_(block.decode(given).reshape(to.shape))
    return out.view(*raw.shape[:-1], -1)


class GGUF(Format):
    """Rows of blocks. The type may differ from layer to layer: then each record names its own.

    A record has room for the largest type of all layers; those of a smaller one fill its beginning.
    """

    suffixes: ClassVar = {"blocks": ".blocks", "type": ".type"}
    stacked = True
    pieces: ClassVar = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}

    def __init__(self, settings: Mapping[str, Any], piece: str = "") -> None:
        self._settings, self.types = settings, tuple(settings["types"].get(piece, ()))

    def of(self, piece: str) -> GGUF:
        """Return the format of one matrix of each expert."""
        return GGUF(self._settings, piece)

    @property
    def name(self) -> str:
        """The block types."""
        return "+".join(self.types)

    @property
    def widest(self) -> Block:
        """The block type that takes most bytes."""
        return max((BLOCKS[kind] for kind in self.types), key=lambda b: b.bytes / b.numbers)

    def tensors(self, shape: tuple[int, int]) -> Spec:
        """Return the tensors of one expert's matrix."""
        for kind in self.types:
            if shape[1] % BLOCKS[kind].numbers:
                raise ValueError(
                    f"model: {kind} with {shape[1]} inputs; expected a multiple of "
                    f"{BLOCKS[kind].numbers}; is the file damaged?"
                )
        width = shape[1] // self.widest.numbers * self.widest.bytes
        several = {"type": ((1,), torch.uint8)} if len(self.types) > 1 else {}
        return {"blocks": ((shape[0], width), torch.uint8), **several}

    def _rows(self, stored: Mapping[str, Tensor]) -> tuple[Tensor, str]:
        """The blocks without what is left empty, and their type."""
        blocks, kind = stored["blocks"], self.types[0]
        rows, columns = len(blocks), blocks.shape[1] // self.widest.bytes * self.widest.numbers
        if "type" in stored:
            kind = NAMES[int(stored["type"])]
        size = columns // BLOCKS[kind].numbers * BLOCKS[kind].bytes
        return blocks.view(-1)[: rows * size].view(rows, size), kind

    def decode(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Decode the blocks in float32, then round to the dtype."""
        return decode(*self._rows(stored)).to(dtype)

    def product(self, x: Tensor, stored: Mapping[str, Tensor]) -> Tensor | None:
        """Return `x @ matrix.T`, row by row, for the types that have loops."""
        from moex.quant.formats import row_loops  # loads the compiler

        rows, kind = self._rows(stored)
        return row_loops.product(x, rows, kind) if kind in row_loops.DECODERS else None
