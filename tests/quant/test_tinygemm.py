"""The int4 kernel of CUDA; needs a GPU, and nothing but torch."""

from __future__ import annotations

import pytest
import torch

from moex.quant.rtn import RTN


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
