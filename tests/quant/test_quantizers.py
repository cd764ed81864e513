"""Quantizers by groups: what is packed, what it stands for, and what computes with it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from moex.quant import scales
from moex.quant.grouped import Grouped, dequantize
from moex.quant.hqq import HQQ
from moex.quant.mixed import Mixed
from moex.quant.only import Only
from moex.quant.rtn import RTN
from moex.testing import check_quantizer

FORMATS = [(8, 64), (4, 64), (3, 64), (2, 16)]
BOTH = pytest.mark.parametrize("solver", [RTN, HQQ])
GATE, DOWN = (14336, 4096), (4096, 14336)


def weight(rows: int = 192, columns: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 50


@BOTH
@pytest.mark.parametrize(("bits", "group"), FORMATS)
@pytest.mark.parametrize("meta_bits", [8, 16])
def test_the_contract_is_kept(solver, bits, group, meta_bits):
    check_quantizer(lambda: solver(bits, group, meta_bits))
    check_quantizer(lambda: solver(bits, group, meta_bits, kernel="reference"))


@BOTH
@pytest.mark.parametrize(("bits", "group"), FORMATS)
def test_dequantized_weights_are_hqq_s_own_bit_for_bit(solver, bits, group):
    from hqq.core.quantize import Quantizer

    rows, columns = 192, 256
    original = weight(rows, columns)
    packed, meta = Quantizer.quantize(
        original,
        nbits=bits,
        group_size=group,
        axis=1,
        optimize=solver is HQQ,
        round_zero=solver is HQQ and bits == 4,
        device="cpu",
    )

    def eight_bits(values: torch.Tensor, **settings) -> torch.Tensor:
        """A column [groups of the weight, 1] through 8 bits, in the order that we store."""
        ordered = values.view(rows, -1).t().contiguous()
        found, its = Quantizer.quantize(
            ordered, nbits=8, optimize=False, axis=1, device="cpu", **settings
        )
        its["compute_dtype"] = torch.float32
        return Quantizer.dequantize(found, its).t().reshape(-1, 1)

    unit = scales.UNIT
    meta["scale"] = eight_bits(meta["scale"] * unit, group_size=256) / unit
    meta["zero"] = eight_bits(meta["zero"], channel_wise=False, group_size=None)
    meta["compute_dtype"] = torch.float32
    quantizer = solver(bits, group)
    ours = quantizer.unpack(quantizer.pack(original), torch.float32)
    assert torch.equal(ours, Quantizer.dequantize(packed, meta))


@pytest.mark.parametrize(("bits", "group", "most"), [(4, 64, 4.27), (3, 64, 3.47), (2, 16, 3.03)])
def test_bits_a_weight_at_the_sizes_of_mixtral(bits, group, most):
    quantizer = HQQ(bits, group)
    weights = 2 * GATE[0] * GATE[1] + DOWN[0] * DOWN[1]
    nbytes = quantizer.nbytes((2 * GATE[0], GATE[1])) + quantizer.nbytes(DOWN)
    assert bits < 8 * nbytes / weights <= most


@pytest.mark.parametrize("scale_group", [1, 3, 255, 256, 500, 3071, 10**9])
def test_a_scale_group_that_does_not_divide_splits_evenly(scale_group):
    rows, columns = 192, 1024
    quantizer, original = RTN(4, 64, scale_group=scale_group), weight(rows, columns)
    packed = quantizer.pack(original)
    count = rows * columns // 64
    groups = -(-count // scale_group)
    assert packed["scale_meta"].shape == quantizer.tensors((rows, columns))["scale_meta"][0]
    assert len(packed["scale_meta"]) == groups
    scale, zero = RTN(4, 64, meta_bits=16).quantize(original)[1:]
    expected = []
    for part in (scale.t().reshape(-1) * scales.UNIT).split(-(-count // groups)):
        codes, meta = scales.quantize(part, len(part))
        expected.append((codes.float() - meta[0, 1]) * (meta[0, 0] / scales.UNIT))
    found, zeros = scales.read(packed)
    assert torch.equal(found.reshape(-1), torch.cat(expected))
    assert (zeros - zero.t()).abs().max() < 0.05
    loss = (quantizer.unpack(packed, torch.float32) - original).norm() / original.norm()
    assert loss < 0.12


def test_fewer_bits_lose_more_and_hqq_loses_less_than_rounding():
    def loss(quantizer: Grouped) -> float:
        # heavy tails, as trained weights have them
        original = weight(seed=1) + weight(seed=2) ** 3 * 500
        return float(
            (quantizer.unpack(quantizer.pack(original), torch.float32) - original).abs().mean()
        )

    for solver in (RTN, HQQ):
        found = [loss(solver(*form)) for form in ((8, 64), (4, 64), (3, 64), (2, 64))]
        assert found == sorted(found)
    for form in ((3, 64), (2, 16)):
        assert loss(HQQ(*form)) < loss(RTN(*form))


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_a_plane_gives_back_its_codes_and_pads_nothing(bits):
    from moex.quant.kernels.reference import Reference

    codes = torch.randint(2**bits, (5, 48), generator=torch.Generator().manual_seed(1)).byte()
    kernel = Reference()
    plane = kernel.store(codes, bits)
    assert plane.numel() == codes.numel() * bits // 8
    assert torch.equal(kernel.codes(plane, bits, (5, 48)), codes)


def test_flat_and_one_sided_groups_survive():
    original = torch.full((64, 64), 0.25)
    original[1] = torch.linspace(0.5, 0.6, 64)
    for quantizer in (RTN(4, 64), HQQ(4, 64, kernel="reference"), RTN(8, 64)):
        found = quantizer.unpack(quantizer.pack(original), torch.float32)
        assert found.isfinite().all()
        assert (found[1] - original[1]).abs().max() < 0.02


def test_weights_of_small_magnitude_keep_their_scales():
    original = weight() / 100
    quantizer = RTN(4, 64)
    error = quantizer.unpack(quantizer.pack(original), torch.float32) - original
    assert error.norm() / original.norm() < 0.1


def test_a_weight_is_quantized_by_blocks_of_rows():
    class Small(RTN):
        block = 256 * 5

    original = weight(64)
    ours, whole = Small(4, 64).pack(original), RTN(4, 64).pack(original)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 5}, "quant.bits=5: expected one of 8, 4, 3, 2"),
        ({"meta_bits": 4}, "quant.meta_bits=4: expected one of 8, 16"),
        ({"kernel": "marlin"}, "quant.kernel=marlin: expected one of auto, int4, reference, tiny"),
        ({"group_size": 0}, "quant.group_size=0: expected 1 or more; try quant.group_size=64"),
        ({"scale_group": 0}, "quant.scale_group=0: expected 1 or more; try quant.scale_group=256"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        RTN(**settings)


@pytest.mark.parametrize(
    ("settings", "shape", "said"),
    [
        ({"group_size": 64}, (64, 96), r"group_size=64: does not divide the 96 .*group_size=32"),
        ({"bits": 3, "group_size": 4}, (64, 12), "3 bits need rows of a multiple of 8"),
        ({"bits": 2, "kernel": "int4"}, (64, 64), "quant.kernel=int4: int4 computes 4 bits"),
        ({"kernel": "int4"}, (40, 64), "quant.kernel=int4: int4 needs outputs of a multiple of"),
        ({"kernel": "tinygemm"}, (64, 128), "quant.kernel=tinygemm: tinygemm needs a CUDA device"),
    ],
)
def test_a_shape_that_does_not_suit_is_named_before_anything_is_packed(settings, shape, said):
    with pytest.raises(ValueError, match=said):
        RTN(**settings).tensors(shape)


def test_mixed_gives_every_weight_its_own():
    two, four = HQQ(2, 16), HQQ(4)
    mixed = Mixed(gate_up=two, down=four, attention=None, head=four)
    names = (
        "experts.gate_up_proj",
        "experts.down_proj",
        "model.layers.0.self_attn.q_proj",
        "lm_head",
    )
    assert [mixed.of(name) for name in names] == [two, four, None, four]
    assert HQQ(4).of("lm_head") is None
    mixed.bind("meta", torch.float32)
    assert [(each.device, each.dtype) for each in (two, four)] == [("meta", torch.float32)] * 2


def test_equal_settings_are_equal_quantizers():
    quantizer = RTN(4, 64)
    quantizer.tensors((192, 256))
    assert quantizer == RTN(4, 64)
    assert dataclasses.replace(quantizer, bits=3) == RTN(3, 64)


def test_dequantize_is_code_less_zero_times_scale():
    codes = torch.tensor([[0, 1, 2, 3]], dtype=torch.uint8)
    found = dequantize(
        codes, torch.tensor([[2.0], [3.0]]), torch.tensor([[1.0], [2.0]]), torch.float32
    )
    assert found.tolist() == [[-2.0, 0.0, 0.0, 3.0]]


@pytest.mark.parametrize("columns", [64, 192])  # an odd number of groups, as 2880 has
def test_a_single_packed_row_is_unpacked_as_one_among_others(columns):
    from moex.quant.rows import pack_rows, unpack_rows

    quantizer = RTN(bits=4)
    rows = pack_rows(quantizer, torch.randn(3, columns))
    found = unpack_rows(quantizer, rows, columns, torch.float32)
    assert torch.equal(unpack_rows(quantizer, rows[1:2], columns, torch.float32), found[1:2])


@pytest.mark.parametrize(("bits", "group"), [(4, 64), (3, 64), (2, 16)])
def test_rows_of_their_own_take_little_more_and_lose_no_more(bits, group):
    from moex.quant.rows import pack_rows, row_bytes, unpack_rows

    quantizer, original = RTN(bits, group), weight()
    rows = pack_rows(quantizer, original)
    assert rows.shape == (192, row_bytes(quantizer, 256))
    some = torch.tensor([7, 3, 100])
    found = unpack_rows(quantizer, rows, 256, torch.float32)
    assert torch.equal(unpack_rows(quantizer, rows[some], 256, torch.float32), found[some])
    planes = quantizer.unpack(quantizer.pack(original), torch.float32)
    assert (found - original).norm() < 1.02 * (planes - original).norm()
    # a neuron of Mixtral: gate row, up row and down column, aligned; against planes
    bundle = -(-3 * row_bytes(quantizer, 4096) // 64) * 64 * GATE[0]
    assert bundle < 1.015 * (quantizer.nbytes((2 * GATE[0], GATE[1])) + quantizer.nbytes(DOWN))


@BOTH
def test_a_kernel_that_no_shape_suits_is_followed_by_bits_that_one_does(solver):
    narrow = (64, 252)  # 3 bits fill whole bytes in rows of 8
    with pytest.raises(ValueError, match=r"^quant.kernel=auto: 3 bits need .*; try quant.bits=4$"):
        solver(bits=3, group_size=4).tensors(narrow)
    assert solver(bits=4, group_size=4).tensors(narrow)
    with pytest.raises(ValueError, match=r"try quant.kernel=auto$"):
        solver(bits=4, group_size=4, kernel="int4").tensors(narrow)
    assert solver(bits=4, group_size=4, kernel="auto").tensors(narrow)


def test_a_quantizer_in_another_is_named_where_it_stands():
    mixed = Mixed(gate_up=RTN(group_size=7))
    with pytest.raises(ValueError, match=r"^quant.gate_up.group_size=7: .*; try quant.gate_up."):
        mixed.of("experts.gate_up_proj").tensors((64, 256))
    only = Only("down", RTN(group_size=7))
    with pytest.raises(ValueError, match=r"^quant.quantizer.group_size=7: .*; try quant.quantiz"):
        only.of("experts.down_proj").tensors((64, 256))
