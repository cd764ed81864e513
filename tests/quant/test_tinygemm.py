"""The int4 kernel of CUDA; all but the first test need a GPU, and nothing but torch."""

from __future__ import annotations

import pytest
import torch

from moex.quant.kernels import tinygemm
from moex.quant.rtn import RTN


def test_the_kernel_is_given_what_its_checks_ask_for(monkeypatch):
    """Contiguous bfloat16 tokens [n, in] and a table [groups, out, 2]; also of a sliced batch."""
    given = []

    def multiply(x, plane, size, table):
        given.append((x, table))
        return x.new_zeros(len(x), plane.shape[0])

    monkeypatch.setattr(tinygemm, "_multiply", multiply)
    quantizer = RTN(4, 64, kernel="reference")
    packed = quantizer.pack(torch.randn(16, 128))
    x = torch.randn(3, 5, 128, dtype=torch.bfloat16)[:, -1:]
    assert not x.reshape(-1, 128).is_contiguous()
    out = tinygemm.TinyGemm().matmul(x, packed, quantizer)
    ((tokens, table),) = given
    assert out.shape == (3, 1, 16)
    assert tokens.is_contiguous()
    assert table.is_contiguous()
    assert (tokens.dtype, table.dtype) == (torch.bfloat16, torch.bfloat16)
    assert (tokens.shape, table.shape) == ((3, 128), (2, 16, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.gpu
def test_tinygemm_agrees_with_the_reference_in_float64():
    weight = torch.randn(192, 256, generator=torch.Generator().manual_seed(0)) / 50
    quantizer = RTN(4, 64)
    quantizer.bind("cuda")
    assert quantizer.kernel_name((192, 256)) == "tinygemm"
    packed = {name: part.cuda() for name, part in quantizer.pack(weight).items()}
    x = torch.randn(5, 256).bfloat16().cuda()
    exact = x.double() @ quantizer.unpack(packed, torch.float64).t()
    error = (quantizer.matmul(x, packed).double() - exact).abs().max() / exact.abs().max()
    assert error < 2e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(8, 128), (4096, 14336), (14336, 4096)])
def test_codes_come_back_from_the_plane(shape):
    codes = torch.randint(16, shape, generator=torch.Generator().manual_seed(1)).byte()
    plane = tinygemm.TinyGemm().store(codes, 4)
    assert plane.shape == tinygemm.TinyGemm().plane(shape, 4)
    assert torch.equal(tinygemm.TinyGemm().codes(plane.cuda(), 4, shape).cpu(), codes)
