"""The int4 kernel of a CPU: what it computes, and when it is chosen."""

from __future__ import annotations

import pytest
import torch

from moex.quant import loops, scales
from moex.quant.kernels.int4 import MANY, block, has_integers
from moex.quant.rtn import RTN

HERE = pytest.mark.skipif(not block(), reason="torch's int4 kernel is not here")


def weight(rows: int = 192, columns: int = 256) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) / 50


@HERE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("meta_bits", [8, 16])
@pytest.mark.parametrize("tokens", [1, 7, MANY])
def test_int4_agrees_with_the_reference_in_float64(dtype, meta_bits, tokens):
    quantizer = RTN(4, 64, meta_bits)
    assert quantizer.kernel_name((192, 256)) == "int4"
    packed = quantizer.pack(weight())
    x = torch.randn(tokens, 256, generator=torch.Generator().manual_seed(3)).to(dtype)
    exact = x.double() @ quantizer.unpack(packed, torch.float64).t()
    error = (quantizer.matmul(x, packed).double() - exact).abs().max() / exact.abs().max()
    assert error < (1e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.skipif(not has_integers() or not block(), reason="no bytes multiplied here")
@pytest.mark.parametrize(("meta_bits", "group", "threads"), [(8, 32, 1), (16, 64, 3), (8, 256, 2)])
def test_whole_numbers_are_finer_than_bfloat16(meta_bits, group, threads):
    quantizer, before = RTN(4, group, meta_bits), torch.get_num_threads()
    packed = quantizer.pack(weight(320, 512))
    x = torch.randn(2 * loops.SLAB + 3, 512, generator=torch.Generator().manual_seed(3)).bfloat16()
    x[5], x[6], x[7] = 0, 1e-20 * x[6], 1e20 * x[7]
    x[8, 9], x[10, 11] = 100, -300  # outliers, as activations have them
    exact = x.double() @ quantizer.unpack(packed, torch.float64).t()
    rounded = torch.mm(x, quantizer.unpack(packed, torch.bfloat16).t()).double()
    try:
        torch.set_num_threads(threads)
        found = loops.product(x, packed, block()).double()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    some = [token for token in range(len(x)) if token != 5]
    errors = [
        ((each - exact)[some].norm(dim=1) / exact[some].norm(dim=1)) for each in (found, rounded)
    ]
    assert (errors[0] < 1.2 * errors[1]).all()
    assert errors[0].mean() < errors[1].mean()
    assert not found[5].any()
    x[0, 0] = torch.nan
    assert loops.product(x, packed, block())[0].isnan().all()


@HERE
def test_int4_and_reference_hold_the_same_weight():
    original, forms = weight(), ("int4", "reference")
    found = [RTN(4, 64, kernel=kernel) for kernel in forms]
    unpacked = [q.unpack(q.pack(original), torch.float32) for q in found]
    assert torch.equal(*unpacked)
    assert found[0].settings((192, 256)) != found[1].settings((192, 256))


def test_auto_takes_the_reference_where_int4_cannot():
    assert RTN(2, 16).kernel_name((192, 256)) == "reference"
    assert RTN(4, 16).kernel_name((192, 256)) == "reference"
    assert RTN(4, 64).kernel_name((48, 256)) == "reference"


@HERE
def test_a_kernel_slow_with_the_activations_is_used_only_if_named():
    names = {}
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        for kernel in ("auto", "int4"):
            quantizer = RTN(4, 64, kernel=kernel)
            quantizer.bind("cpu", dtype)
            names[dtype, kernel] = quantizer.kernel_name((64, 64))
    assert set(names.values()) == {"int4", "reference"}
    slow = [pair for pair, name in names.items() if name == "reference"]
    assert slow == [(torch.float32, "auto"), (torch.float16, "auto")]


@pytest.mark.parametrize("scale_group", [5, 255, 256])
@pytest.mark.parametrize("count", [640, loops.LARGE])
def test_scales_are_expanded_as_they_are_read_whatever_their_groups(scale_group, count):
    draws = torch.Generator().manual_seed(4)
    scale, zero = torch.rand(8, count // 8, generator=draws) / 50, torch.rand(8, count // 8) * 15
    packed = scales.pack(scale, zero, 8, scale_group)
    read, zeros = scales.read(packed)
    expected = torch.stack((read, (8 - zeros) * read))
    torch.testing.assert_close(loops.numbers(packed), expected)
    pairs = loops.table(packed, torch.bfloat16).movedim(-1, 0).float()
    torch.testing.assert_close(pairs, expected, rtol=1e-2, atol=1e-4)
