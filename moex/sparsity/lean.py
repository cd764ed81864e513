"""Factors as they are held and computed with in a run: four and eight bits, nothing unpacked.

Every product is made by a kernel that gives a token the same bits alone and in company (torch's
weight-only int4 and int8 on the CPU); what is between them is float64, because the ends of a
vectorized loop may differ in the last bit. So a token's masks do not depend on the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from moex.quant.kernels import int4, reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moex.sparsity.lowrank import LayerFactors

GROUP = 32
BLOCK = 16
"""Inputs that torch's int8 kernel takes at once: with a remainder it reads past the end."""


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to


class EightBits:
    """A matrix [out, in] in eight bits with one scale a row."""

    def __init__(self, weight: Tensor) -> None:
        self.short = -weight.shape[1] % BLOCK
        weight = functional.pad(weight.float(), (0, self.short))
        largest = weight.abs().amax(1).clamp(min=1e-30)
        self.scale = (largest / 127).bfloat16()
        codes = (weight / self.scale.float()[:, None]).round()
        self.codes = codes.clamp(-127, 127).to(torch.int8)

    def __call__(self, x: Tensor) -> Tensor:
        """Products [tokens, out] of x [tokens, in], both bfloat16."""
        if self.short:
            x = functional.pad(x, (0, self.short))
        if x.device.type == "cpu":
            return torch.ops.aten._weight_int8pack_mm(x.contiguous(), self.codes, self.scale)
        return ((x.double() @ self.codes.double().T) * self.scale.double()).bfloat16()

    def to(self, device: torch.device) -> None:
        """Move it."""
        self.codes, self.scale = self.codes.to(device), self.scale.to(device)


class FourBits:
    """Matrices [out, in] in four bits, of all experts of a layer, without scales.

    Args:
        levels: codes 0 to 15 that stand for -8 to 7, uint8 [experts, out, in]. Rows and columns are
            padded to what the kernel takes: `inputs` is the new number of columns.
        table: scales and offsets of the kernel, all one and zero, shared by all layers.
    """

    def __init__(self, levels: Tensor, table: dict[str, Tensor]) -> None:
        experts, rows, columns = levels.shape
        self.inputs, self.outputs = _padded(columns, GROUP), _padded(rows, int4.block() or 1)
        self.kernel: Any = int4.KERNEL if int4.block() else reference.KERNEL
        room = torch.full((experts, self.outputs, self.inputs), 8, dtype=torch.uint8)
        room[:, :rows, :columns] = levels
        self.planes = [self.kernel.store(each, 4) for each in room]
        if not table:
            table["ones"] = torch.ones(self.inputs // GROUP, self.outputs, 2).bfloat16()
            table["ones"][..., 1] = 0
        self.table = table["ones"]

    def __call__(self, x: Tensor, expert: int) -> Tensor:
        """Products [tokens, out] of x [tokens, in], both bfloat16, with one expert's matrix."""
        plane = self.planes[expert]
        if self.kernel is int4.KERNEL:
            kernel = torch.ops.aten._weight_int4pack_mm_for_cpu
            return kernel(x.contiguous(), plane, GROUP, self.table)
        levels = self.kernel.codes(plane, 4, (self.outputs, self.inputs))
        return (x.double() @ (levels.double() - 8).T).bfloat16()

    def to(self, device: torch.device) -> None:
        """Move it; elsewhere the reference computes, which unpacks."""
        shape = self.outputs, self.inputs
        codes = [self.kernel.codes(plane, 4, shape) for plane in self.planes]
        self.kernel = reference.KERNEL
        self.planes = [self.kernel.store(each, 4).to(device) for each in codes]
        self.table = self.table.to(device)


class Lean:
    """One layer's `LayerFactors` made lean: the same `encode` and `estimate`.

    Args:
        factors: as trained.
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
        self.scale = list(scale.bfloat16())
        self.cuts = factors.cuts.half()
        self.first: EightBits | None = None
        if factors.ahead is not None:
            ahead, more = factors.ahead, (0, 0, 0, inputs - rank)
            both = functional.pad(ahead.linear.weight, more), ahead.inner.weight
            self.first = EightBits(torch.cat(both))
            self.outer = EightBits(functional.pad(ahead.outer.weight, more))
            biases = ahead.inner.bias, functional.pad(ahead.outer.bias, more[2:])
            self.inner_bias, self.outer_bias = (bias.half() for bias in biases)
        self.rows = self.four.planes

    def encode(self, hidden: Tensor, early: bool) -> Tensor:
        """Codes [tokens, padded rank] of the layer's own router input, or of the one before."""
        state = hidden.bfloat16()
        if not early:
            return self.own(state)
        assert self.first is not None
        both = self.first(state).double()
        linear, inner = both.split((self.four.inputs, both.shape[1] - self.four.inputs), 1)
        correction = self.outer(functional.gelu(inner + self.inner_bias).bfloat16())
        return (linear + correction + self.outer_bias).bfloat16()

    def estimate(self, codes: Tensor, experts: Sequence[int]) -> Tensor:
        """Contributions [experts, tokens, intermediate] for codes; float64."""
        count = 2 * self.neurons
        products = [self.four(codes, expert)[:, :count] for expert in experts]
        both = torch.stack(products).double()
        both *= torch.stack([self.scale[expert] for expert in experts])[:, None]
        gate, up = both.chunk(2, -1)
        return functional.silu(gate).mul_(up).abs_()

    def tensors(self) -> list[Tensor]:
        """All that is held, the shared table too."""
        parts = [self.own, self.first, self.outer] if self.first is not None else [self.own]
        held = [tensor for part in parts for tensor in (part.codes, part.scale)]
        biases = [self.inner_bias, self.outer_bias] if self.first is not None else []
        return [*self.four.planes, self.four.table, *self.scale, self.cuts, *held, *biases]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.cuts.device

    def to(self, device: torch.device) -> None:
        """Move it to another device."""
        self.four.to(device)
        self.own.to(device)
        self.scale = [each.to(device) for each in self.scale]
        self.cuts = self.cuts.to(device)
        if self.first is not None:
            self.first.to(device)
            self.outer.to(device)
            biases = self.inner_bias, self.outer_bias
            self.inner_bias, self.outer_bias = (bias.to(device) for bias in biases)
        self.rows = self.four.planes


def held_bytes(layers: Sequence[Lean]) -> int:
    """Bytes of all layers; what they share is counted once."""
    tensors = {id(tensor): tensor for layer in layers for tensor in layer.tensors()}
    # Rows of one tensor are views of it: each counts its own bytes.
    return sum(tensor.nbytes for tensor in tensors.values())
