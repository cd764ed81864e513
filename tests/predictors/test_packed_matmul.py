"""Packed matrices: the kernels and the way without them agree, padding changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moex.predictors.packed_matmul import EightBits, FourBits, has_int4
from moex.sparsity.up_reuse import UpReuse
from moex.types import Geometry


@pytest.fixture
def levels():
    return torch.randint(16, (2, 40, 44), generator=torch.Generator().manual_seed(1)).byte()


@pytest.mark.parametrize("packed", [False, True])
def test_four_bits_multiply_what_they_were_given(levels, packed):
    if packed and not has_int4():
        pytest.skip("this machine's torch has no int4 kernel")
    matrix = FourBits(levels, {}, packed)
    assert torch.equal(matrix.levels(1)[:40, :44], levels[1])
    assert (matrix.levels(1)[40:] == 8).all()
    x = torch.randn(5, matrix.inputs, generator=torch.Generator().manual_seed(2)).bfloat16()
    true = x[:, :44].double() @ (levels[1].double() - 8).T
    found = matrix(x, 1)[:, :40]
    assert (found - true).norm() < 0.005 * true.norm()
    matrix.to(torch.device("cpu"))  # as to any device: unpacked from then on
    assert torch.equal(matrix.levels(1)[:40, :44], levels[1])
    assert not matrix.packed


@pytest.mark.parametrize("inputs", [7, 16, 33])
def test_eight_bits_take_any_number_of_inputs(inputs):
    draw = torch.Generator().manual_seed(3)
    weight = torch.randn(12, inputs, generator=draw)
    x = torch.randn(9, inputs, generator=draw).bfloat16()
    found = EightBits(weight)(x)
    assert (found - x.float() @ weight.T).norm() < 0.02 * found.norm()
    assert torch.equal(EightBits(weight)(x[4:5])[0], found[4])


def test_a_copy_of_up_in_four_bits_names_the_largest_alike_alone_and_in_a_batch():
    draw = torch.Generator().manual_seed(5)
    ups, downs = torch.randn(2, 3, 96, 80, generator=draw), torch.rand(2, 3, 96, 80, generator=draw)
    downs *= torch.rand(2, 3, 96, 1, generator=draw)
    geometry = Geometry(2, 3, 1, 80, 96, 0)
    states = torch.randn(40, 80, generator=draw)
    selector = UpReuse(fraction=0.25)
    selector.bind(
        geometry, Path(), lambda e: {"up": ups[e.layer, e.index], "down": downs[e.layer, e.index]}
    )
    chosen = selector.select(states, 1, [2, 0])
    assert chosen.shape == (2, 40, 96)
    alone = torch.cat([selector.select(each[None], 1, [2, 0]) for each in states], 1)
    assert torch.equal(chosen, alone)
    true = (states @ ups[1, 2].T).abs() * downs[1, 2].norm(dim=1)
    best = torch.zeros(40, 96, dtype=torch.bool).scatter_(1, true.topk(24).indices, True)
    assert (chosen[0] & best).sum() > 0.85 * best.sum()
    assert ups.numel() / 2 < selector.device_bytes < ups.numel()
    with pytest.raises(ValueError, match="rule=quantile: expected one of top, energy"):
        UpReuse(rule="quantile")
