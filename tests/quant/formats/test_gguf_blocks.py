"""GGUF's block types are decoded as the gguf package does, bit for bit, on random valid blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf_files import random_rows

from moex.quant.formats import row_loops
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


def check_rows(kind):
    """The same numbers; sums within rounding of float64's."""
    rows = random_rows(kind, 40, 512)
    if kind == "MXFP4":
        rows.view(40, -1, 17)[..., 0] = rows.view(40, -1, 17)[..., 0] % 20 + 118
    weight = decode(rows, kind)
    assert torch.equal(row_loops.product(torch.eye(512), rows, kind), weight.t())
    for tokens in (1, 5):
        x = torch.randn(tokens, 512)
        exact, found = x.double() @ weight.double().t(), row_loops.product(x, rows, kind)
        assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_rows_are_multiplied_as_the_decoded_matrix_is():
    check_rows("Q4_K")


@pytest.mark.slow  # each compiles for seconds
@pytest.mark.parametrize("kind", [kind for kind in row_loops.DECODERS if kind != "Q4_K"])
def test_rows_of_every_type_are_multiplied_as_the_decoded_matrix_is(kind):
    check_rows(kind)


def test_a_kernel_by_rows_is_used_for_few_tokens_where_there_is_one():
    form = GGUF({"types": {"gate": ["Q4_K"], "up": ["Q4_K"], "down": ["Q5_K"]}})
    raw = {"gate.blocks": random_rows("Q4_K", 3, 512), "up.blocks": random_rows("Q4_K", 3, 512)}
    both, x = Stored({piece: form.of(piece) for piece in ("gate", "up")}), torch.randn(2, 512)
    expected = both.matmul(x, raw)
    both.kernel = "rows"
    assert torch.allclose(both.matmul(x, raw), expected, rtol=1e-4, atol=1e-5)
    assert both.matmul(x[0], raw).shape == (6,)
    down = Stored({"down": form.of("down")})
    raw = {"down.blocks": random_rows("Q5_K", 3, 512)}
    expected, down.kernel = down.matmul(x, raw), "rows"
    assert torch.equal(down.matmul(x, raw), expected)  # no loop for this type
