"""Products with eight-bit and four-bit matrices, independent of the number of tokens.

On the CPU they use torch's weight-only int8 and int4 kernels, whose order of summation does not
depend on the number of tokens. On other devices, or without these kernels, the matrices are
unpacked at every call.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

GROUP = 32
"""The int4 kernel needs multiples of this many inputs, and of `OUTPUTS` (its largest block)."""
OUTPUTS = 64
BLOCK = 16
"""Inputs per step of torch's int8 kernel: with a remainder it would read past the end."""


@cache
def has_int4() -> bool:
    """Whether this machine has the int4 kernel, and its results are correct."""
    levels = torch.randint(16, (OUTPUTS, GROUP), generator=torch.Generator().manual_seed(0))
    try:
        matrix = FourBits(levels[None].byte(), {}, packed=True)
        return torch.equal(matrix.levels(0).long(), levels)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


class EightBits:
    """A matrix [out, in] in eight bits with one scale per row."""

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
            return torch._weight_int8pack_mm(x.contiguous(), self.codes, self.scale)
        return ((x.double() @ self.codes.double().T) * self.scale.double()).bfloat16()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.codes.nbytes + self.scale.nbytes

    def to(self, device: torch.device) -> None:
        """Move the tensors to a device."""
        self.codes, self.scale = self.codes.to(device), self.scale.to(device)


class FourBits:
    """Matrices [out, in] of all experts of a layer in four bits, without scales.

    Args:
        levels: codes 0 to 15 that represent -8 to 7, uint8 [experts, out, in]. Rows and columns are
            padded to the kernel's multiples: `outputs` and `inputs` are the padded sizes.
        table: a dictionary shared by all layers, filled with the kernel's scales (1) and offsets
            (0) at first use.
        packed: use the int4 kernel's format; default: if the kernel works here.
    """

    def __init__(
        self, levels: Tensor, table: dict[str, Tensor], packed: bool | None = None
    ) -> None:
        _, rows, columns = levels.shape
        self.packed = has_int4() if packed is None else packed
        self.inputs, self.outputs = -(-columns // GROUP) * GROUP, -(-rows // OUTPUTS) * OUTPUTS
        room = (0, self.inputs - columns, 0, self.outputs - rows)
        self.planes = [self._store(functional.pad(each, room, value=8)) for each in levels]
        if not table:
            table["one"] = torch.ones(self.inputs // GROUP, self.outputs, 2).bfloat16()
            table["one"][..., 1] = 0
        self.table = table["one"]

    def _store(self, levels: Tensor) -> Tensor:
        if self.packed:
            return torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.int(), 1)
        low, high = levels.chunk(2, 1)
        return low | high << 4

    def levels(self, expert: int) -> Tensor:
        """The codes of one expert, uint8 [outputs, inputs]."""
        plane = self.planes[expert]
        if self.packed:  # the product with the identity: small integers, exact in bfloat16
            return (self(torch.eye(self.inputs).bfloat16(), expert).T + 8).byte()
        return torch.cat((plane & 15, plane >> 4), 1)

    def __call__(self, x: Tensor, expert: int) -> Tensor:
        """Products [tokens, out] of x [tokens, in], both bfloat16, with one expert's matrix."""
        if self.packed:
            kernel = torch._weight_int4pack_mm_for_cpu
            return kernel(x.contiguous(), self.planes[expert], GROUP, self.table)
        return (x.double() @ (self.levels(expert).double() - 8).T).bfloat16()

    def to(self, device: torch.device) -> None:
        """Move to a device, where the matrices are unpacked at every call."""
        levels = [self.levels(expert) for expert in range(len(self.planes))]
        self.packed = False
        self.planes = [self._store(each).to(device) for each in levels]
        self.table = self.table.to(device)
