"""The trained low-rank factors for inference: packed in four and eight bits.

Operations between the products use float64, because a vectorized loop may round its remainder
differently. So a token's masks do not depend on its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from moex.predictors.packed_matmul import EightBits, FourBits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moex.predictors.lowrank import LayerFactors


class Lean:
    """One layer's `LayerFactors` in low bits, with the same `encode` and `estimate`.

    Args:
        factors: the trained factors.
        table: see `FourBits`; pass one empty dictionary to all layers.
    """

    def __init__(self, factors: LayerFactors, table: dict[str, Tensor]) -> None:
        self.neurons = factors.norms.shape[1]
        self.four = FourBits(factors.levels(), table)
        rank, inputs = len(factors.code), self.four.inputs
        self.own = EightBits(functional.pad(factors.code, (0, 0, 0, inputs - rank)))
        # The norm of a down column is a factor of the up row's scale.
        scale = factors.scale.float().clone()
        scale[:, self.neurons :] *= factors.norms.float()
        self.scale = list(scale.bfloat16()[:, None])
        self.cuts = factors.cuts.half()
        self.first: EightBits | None = None
        if factors.ahead is not None:
            ahead, more = factors.ahead, (0, 0, 0, inputs - rank)
            both = functional.pad(ahead.linear.weight, more), ahead.inner.weight
            self.first = EightBits(torch.cat(both))
            self.outer = EightBits(functional.pad(ahead.outer.weight, more))
            biases = functional.pad(ahead.outer.bias, more[2:]), ahead.inner.bias
            self.bias = torch.cat(biases).half()

    def encode(self, hidden: Tensor, early: bool) -> Tensor:
        """Codes [tokens, padded rank] of the router input; `early`: of the previous layer's."""
        state = hidden.bfloat16()
        if not early:
            return self.own(state)
        assert self.first is not None
        both = self.first(state).double().add_(self.bias)
        codes, inner = both.split((self.four.inputs, both.shape[1] - self.four.inputs), 1)
        return codes.add_(self.outer(functional.gelu(inner).bfloat16())).bfloat16()

    def estimate(self, codes: Tensor, experts: Sequence[int]) -> Tensor:
        """Contributions [experts, tokens, intermediate] for codes; float64."""
        both = torch.stack([self.four(codes, expert) for expert in experts]).double()
        if self.four.outputs > 2 * self.neurons:
            both = both[..., : 2 * self.neurons]
        both.mul_(torch.stack([self.scale[expert] for expert in experts]))
        gate, up = both.chunk(2, -1)
        return functional.silu(gate).mul_(up).abs_()

    def tensors(self) -> list[Tensor]:
        """All tensors, including the shared table."""
        parts = [self.own, self.first, self.outer] if self.first is not None else [self.own]
        held = [tensor for part in parts for tensor in (part.codes, part.scale)]
        biases = [self.bias] if self.first is not None else []
        return [*self.four.planes, self.four.table, *self.scale, self.cuts, *held, *biases]

    @property
    def device(self) -> torch.device:
        """The device of the factors."""
        return self.cuts.device

    def to(self, device: torch.device) -> None:
        """Move the factors to another device."""
        self.four.to(device)
        self.own.to(device)
        self.scale = [each.to(device) for each in self.scale]
        self.cuts = self.cuts.to(device)
        if self.first is not None:
            self.first.to(device)
            self.outer.to(device)
            self.bias = self.bias.to(device)


def held_bytes(layers: Sequence[Lean]) -> int:
    """Bytes of all layers; shared tensors are counted once."""
    tensors = {id(tensor): tensor for layer in layers for tensor in layer.tensors()}
    # Rows of one tensor are views of it: each counts its own bytes.
    return sum(tensor.nbytes for tensor in tensors.values())
