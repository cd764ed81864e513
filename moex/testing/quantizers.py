"""The contract checker of quantizers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moex.quant.base import EXPERTS, HEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.quant.base import Scheme


def check_quantizer(factory: Callable[[], Scheme]) -> None:
    """Quantize weights with every quantizer of a scheme and check its contract.

    Packed tensors have the names, shapes, dtypes and bytes announced by `tensors()`, and packing is
    deterministic; the weight is not changed; the error is below half of its norm; `matmul` is the
    product with the unpacked weight, for one token and for many, in float32 within 1e-5 of float64
    and in bfloat16 within 2e-2; settings can be written as JSON.

    Args:
        factory: builds a fresh quantizer or scheme.

    Raises:
        AssertionError: the rule that broke, and the shape.
    """
    import torch

    names = (EXPERTS + "gate_up_proj", EXPERTS + "down_proj", "self_attn.q_proj", HEAD)
    draws = torch.Generator().manual_seed(3)
    checked: list[Any] = [None]
    for name in names:
        quantizer = factory().of(name)
        if quantizer in checked:
            continue
        checked.append(quantizer)
        for shape in ((192, 256), (256, 192)):
            where = f"{type(quantizer).__name__} for {name}, a weight {shape[0]}x{shape[1]}"

            def holds(kept: bool, rule: str, where: str = where) -> None:
                if not kept:
                    raise AssertionError(f"{where}: {rule}")

            assert quantizer is not None
            weight = torch.randn(shape, generator=draws) / 50
            before = weight.clone()
            packed, announced = quantizer.pack(weight), quantizer.tensors(shape)
            found = {part: (tuple(t.shape), t.dtype) for part, t in packed.items()}
            holds(found == announced, f"pack gave {found}, tensors() announced {announced}")
            nbytes = sum(tensor.nbytes for tensor in packed.values())
            holds(nbytes == quantizer.nbytes(shape), "nbytes() is not what the tensors take")
            holds(torch.equal(weight, before), "pack changed the weight")
            again = factory().of(name).pack(weight)  # type: ignore[union-attr]
            same = all(torch.equal(again[part], packed[part]) for part in packed)
            holds(same, "packing again gave something else")
            holds(all(t.is_contiguous() for t in packed.values()), "a tensor is not contiguous")
            json.dumps(quantizer.settings(shape))
            exact = quantizer.unpack(packed, torch.float64)
            holds(exact.shape == weight.shape, f"unpack gave {tuple(exact.shape)}")
            holds(bool((exact - weight).norm() < 0.5 * weight.norm()), "half the weight is lost")
            for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
                for tokens in (1, 5):
                    x = torch.randn(tokens, shape[1], generator=draws).to(dtype)
                    out, product = quantizer.matmul(x, packed), x.double() @ exact.t()
                    holds(out.dtype == dtype, f"matmul of {dtype} gave {out.dtype}")
                    error = float((out.double() - product).abs().max() / product.abs().max())
                    holds(error < most, f"matmul of {tokens} tokens in {dtype} is {error:.1e} off")
