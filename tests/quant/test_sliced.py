"""A code in two slices: the high one computes alone, both are the whole code and nothing else."""

from __future__ import annotations

import pytest
import torch

from moex.quant.base import in_slices
from moex.quant.mixed import Mixed
from moex.quant.packing import ExpertPacking
from moex.quant.rtn import RTN
from moex.quant.sliced import Sliced
from moex.store.layout import PAGE, Planes
from moex.testing import check_quantizer

SPEC = {
    "gate_up_proj": ((192, 64), torch.float32),
    "down_proj": ((64, 96), torch.float32),
    "bias": ((96,), torch.float32),
}


def weight(rows: int = 192, columns: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 50


def plain(original: torch.Tensor, bits: int, group: int):
    """Codes, scales and zero-points of the rule, written down once more, group by group."""
    most, codes, scales, zeros = 2**bits - 1, [], [], []
    for values in original.reshape(-1, group):
        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        scale = torch.tensor((high - low) / most).half().float()
        zero = (-torch.tensor(low) / scale).round().clamp(0, most)
        codes.append((values / scale + zero).round().clamp(0, most))
        scales.append(scale)
        zeros.append(zero)
    return torch.stack(codes), torch.stack(scales)[:, None], torch.stack(zeros)[:, None]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [16, 32])
def test_the_contract_is_kept(bits, group):
    check_quantizer(lambda: Sliced(bits, group))


@pytest.mark.parametrize("bits", [4, 8])
def test_both_slices_are_the_plain_code_bit_for_bit(bits):
    original = weight(64, 96)
    codes, scale, zero = plain(original, bits, 32)
    whole = ((codes - zero) * scale).view_as(original)
    quantizer = Sliced(bits)
    assert torch.equal(quantizer.unpack(quantizer.pack(original), torch.float32), whole)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_high_slice_computes_alone_with_shifted_codes_and_zeros(bits):
    original, half = weight(64, 96), bits // 2
    codes, scale, zero = plain(original, bits, 32)
    shifted = (codes.int() >> half) - (zero.int() >> half)
    expected = (shifted * scale * 2**half).view_as(original)
    quantizer = Sliced(bits)
    high = {k: v for k, v in quantizer.pack(original).items() if k not in quantizer.refining}
    assert torch.equal(quantizer.unpack(high, torch.float32), expected)
    x = weight(3, 96, 1)
    assert torch.equal(quantizer.matmul(x, high), x @ expected.t())


def test_a_constant_group_and_one_without_zero_between_its_ends_are_kept():
    quantizer = Sliced()
    ends = torch.tensor([[0.0] * 32, [0.5] * 32, [-0.5] * 31 + [-0.25]])
    rows = torch.cat([ends, torch.zeros(1, 32)])
    found = quantizer.unpack(quantizer.pack(rows), torch.float32)
    assert torch.allclose(found, rows, atol=0.5 / 15)
    assert torch.equal(found[0], rows[0])


def test_a_weight_takes_the_bits_of_its_slices():
    shape, quantizer = (256, 1024), Sliced()
    high = sum(
        tensor.nbytes
        for name, tensor in quantizer.pack(torch.zeros(shape)).items()
        if name not in quantizer.refining
    )
    weights = shape[0] * shape[1]
    assert 8 * quantizer.nbytes(shape) / weights == 4 + 16 / 32 + 4 / 32
    assert 8 * high / weights == 2 + 16 / 32 + 2 / 32


def test_a_record_has_its_high_slice_first_and_the_low_one_on_a_page():
    packing = ExpertPacking(SPEC, Sliced(), transposed=False)
    layout = Planes(packing.tensors, packing.bind, packing.refining)
    names = [part.name for part in layout.parts]
    high, low = layout.slices
    assert high % PAGE == low % PAGE == 0
    assert high + low == layout.bytes
    for part in layout.parts:
        refines = part.name in packing.refining
        assert (part.offset >= high) == refines
        assert refines == part.name.endswith((".low", ".low_zero"))
    assert names.index("bias") < names.index("gate_up_proj.low")
    assert len(packing.refining) == 4


def test_a_record_of_any_other_quantizer_is_one_slice_as_before():
    packing = ExpertPacking(SPEC, RTN(4, 32), transposed=False)
    before, layout = Planes(packing.tensors), Planes(packing.tensors, None, packing.refining)
    assert layout.parts == before.parts
    assert layout.slices == (before.bytes,)


def test_a_scheme_says_whether_experts_are_in_slices():
    assert in_slices(Sliced())
    assert in_slices(Mixed(gate_up=Sliced()))
    assert not in_slices(Mixed(gate_up=RTN(4, 32), attention=Sliced()))
    assert not in_slices(None)


def test_what_cannot_be_cut_is_refused_with_what_works():
    with pytest.raises(ValueError, match=r"quant.bits=3: .* try quant.bits=4$"):
        Sliced(3)
    with pytest.raises(ValueError, match=r"quant.group_size=0: .* try quant.group_size=32$"):
        Sliced(4, 0)
    with pytest.raises(ValueError, match=r"does not divide the 48 inputs .*quant.group_size=16$"):
        Sliced().tensors((64, 48))
    with pytest.raises(ValueError, match=r"a weight is 66x64; try quant=rtn_8bit$"):
        Sliced().tensors((66, 64))
