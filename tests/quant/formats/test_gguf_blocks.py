"""GGUF's block types are decoded as the gguf package does, bit for bit, on random valid blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf_files import random_rows

from moex.quant.formats.base import Stored
from moex.quant.formats.gguf import BLOCKS, GGUF, decode

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_number_is_that_of_the_gguf_package(kind):
    raw = random_rows(kind, 12, 512)
    theirs = gguf.quants.dequantize(raw.numpy(), gguf.GGMLQuantizationType[kind])
    mine = decode(raw, kind)
    assert mine.dtype == torch.float32
    assert torch.equal(mine, torch.from_numpy(np.ascontiguousarray(theirs)))


@pytest.mark.parametrize("kind", BLOCKS)
def test_sizes_and_numbers_of_types_are_those_of_the_gguf_package(kind):
    number = gguf.GGMLQuantizationType[kind]
    assert BLOCKS[kind].number == number.value
    assert BLOCKS[kind][1:3] == gguf.constants.GGML_QUANT_SIZES[number]


def test_a_record_whose_type_differs_from_layer_to_layer_names_its_own():
    form = GGUF({"types": {"down": ["Q4_K", "Q6_K"]}}).of("down")
    spec = form.tensors((4, 512))
    assert spec == {"blocks": ((4, 420), torch.uint8), "type": ((1,), torch.uint8)}
    for kind in ("Q4_K", "Q6_K"):
        raw, blocks = random_rows(kind, 4, 512), torch.zeros(4 * 420, dtype=torch.uint8)
        blocks[: raw.numel()] = raw.flatten()
        number = torch.tensor([BLOCKS[kind].number], dtype=torch.uint8)
        found = form.decode({"blocks": blocks.view(4, 420), "type": number}, torch.float32)
        assert torch.equal(found, decode(raw, kind))


def test_gate_and_up_of_two_types_are_one_weight():
    form = GGUF({"types": {"gate": ["Q4_0"], "up": ["Q8_0"]}})
    raw = {"gate.blocks": random_rows("Q4_0", 3, 64), "up.blocks": random_rows("Q8_0", 3, 64)}
    gate, up = decode(raw["gate.blocks"], "Q4_0"), decode(raw["up.blocks"], "Q8_0")
    pieces = {piece: form.of(piece) for piece in ("gate", "up")}
    assert Stored(pieces).nbytes((6, 64)) == sum(each.nbytes for each in raw.values())
    assert torch.equal(Stored(pieces).unpack(raw, torch.float32), torch.cat((gate, up)))
    turns = Stored(pieces, interleaved=True).unpack(raw, torch.float32)
    assert torch.equal(turns[0::2], gate)
    assert torch.equal(turns[1::2], up)


def test_rows_that_fill_no_block_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"Q4_K with 128 inputs; expected a multiple of 256"):
        GGUF({"types": {"down": ["Q4_K"]}}).of("down").tensors((4, 128))
