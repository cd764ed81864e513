"""MXFP4 is decoded as transformers does, bit for bit."""

from __future__ import annotations

import pytest
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from moex.quant.formats.base import Stored
from moex.quant.formats.mxfp4 import MXFP4


def stored(rows=64, columns=96):
    draws = torch.Generator().manual_seed(5)
    grid = (rows, columns // 32)
    return {
        "blocks": torch.randint(0, 256, (*grid, 16), dtype=torch.uint8, generator=draws),
        "scales": torch.randint(90, 150, grid, dtype=torch.uint8, generator=draws),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_is_that_of_transformers(dtype):
    given = stored()
    theirs = convert_moe_packed_tensors(given["blocks"][None], given["scales"][None], dtype=dtype)
    assert torch.equal(MXFP4({}).decode(given, dtype), theirs[0].t())


def test_the_tensors_of_a_matrix_take_four_and_a_quarter_bits():
    given = stored()
    announced = MXFP4({}).tensors((64, 96))
    assert announced == {part: (tuple(t.shape), t.dtype) for part, t in given.items()}
    whole = Stored({"both": MXFP4({})})
    assert 8 * whole.nbytes((64, 96)) == 4.25 * 64 * 96


def test_the_product_is_that_of_the_decoded_weight():
    form, x = Stored({"both": MXFP4({})}, transposed=True), torch.randn(5, 96)
    packed = {f"both.{part}": each for part, each in stored().items()}
    weight = form.unpack(packed, torch.float32)
    assert torch.equal(form.matmul(x, packed), torch.mm(x, weight.t().contiguous()))
    assert torch.equal(form.matmul(x[:1], packed), torch.mm(x[:1], weight.t().contiguous()))


def test_rows_that_fill_no_group_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"mxfp4 with 48 inputs; expected a multiple of 32"):
        MXFP4({}).tensors((64, 48))


def test_no_weight_is_packed():
    with pytest.raises(ValueError, match=r"makes none of a weight.*try quant=hqq"):
        Stored({"both": MXFP4({})}).pack(torch.zeros(2, 32))
