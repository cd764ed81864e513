"""Low-rank, four-bit approximations of experts' gate and up matrices, one code per layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moex.types import Geometry

GRID = 20


class Ahead(nn.Module):
    """Predicts a layer's code from the router input of the previous layer."""

    def __init__(self, hidden: int, rank: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, rank, bias=False)
        self.inner = nn.Linear(hidden, width)
        self.outer = nn.Linear(width, rank)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Codes [tokens, rank] of router inputs [tokens, hidden]."""
        return self.linear(hidden) + self.outer(functional.gelu(self.inner(hidden)))


class LayerFactors(nn.Module):
    """Estimates every neuron's contribution `|silu(gate) * up| * ||down column||` in one layer.

    A state s has the code `U s` [rank], shared by the layer's experts; gate and up of expert e are
    `V_e U s`, with V_e in four bits and one scale per row. `cuts` are thresholds of estimates
    [own or predicted code, expert, share of neurons above it ((1 to GRID) / GRID)].
    """

    code: Tensor
    rows: Tensor
    scale: Tensor
    norms: Tensor
    cuts: Tensor

    def __init__(self, geometry: Geometry, rank: int, width: int, prefetched: bool) -> None:
        super().__init__()
        _, experts, _, hidden, neurons, _ = geometry
        self.ahead = Ahead(hidden, rank, width) if prefetched else None
        self.register_buffer("code", torch.zeros(rank, hidden))
        packed = torch.zeros(experts, 2 * neurons, rank // 2, dtype=torch.uint8)
        self.register_buffer("rows", packed)
        self.register_buffer("scale", torch.zeros(experts, 2 * neurons))
        self.register_buffer("norms", torch.zeros(experts, neurons))
        self.register_buffer("cuts", torch.zeros(2, experts, GRID))

    def encode(self, hidden: Tensor, early: bool) -> Tensor:
        """Codes [tokens, rank] from the layer's router input; `early`: the previous layer's."""
        if early:
            assert self.ahead is not None
            return self.ahead(hidden)
        return functional.linear(hidden, self.code)

    def estimate(self, codes: Tensor, experts: Sequence[int]) -> Tensor:
        """Contributions [experts, tokens, intermediate] for codes [tokens, rank]."""
        chosen = list(experts)
        packed = self.rows[chosen]
        low, high = codes.chunk(2, dim=-1)
        # Levels 0 to 15 represent -8 to 7: subtract the offset from the product.
        both = low @ (packed & 15).to(codes.dtype).mT
        both += high @ (packed >> 4).to(codes.dtype).mT
        both -= 8 * codes.sum(-1, keepdim=True)
        gate, up = both.mul_(self.scale[chosen, None]).chunk(2, dim=-1)
        return functional.silu(gate).mul_(up).abs_().mul_(self.norms[chosen, None])

    def levels(self) -> Tensor:
        """The four-bit numbers, 0 to 15 for -8 to 7, uint8 [experts, 2 * intermediate, rank]."""
        return torch.cat([self.rows & 15, self.rows >> 4], dim=-1)

    def dense(self) -> Tensor:
        """V_e of all experts, unpacked [experts, 2 * intermediate, rank]."""
        return self.levels().to(self.code.dtype).sub_(8) * self.scale[..., None]

    def fill(self, moment: Tensor, gate_up: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Factor the weights with the least change of outputs on real states.

        The best rank-r factors of all rows at once for states of second moment C come from the
        eigenvectors of C^1/2 W'W C^1/2 (data-aware truncated SVD). The code is then rotated
        randomly: otherwise a few strong directions determine the scales, and four bits cost twice
        as much recall.

        Args:
            moment: C, mean of s s' over tokens [hidden, hidden].
            gate_up: W, rows of all experts [experts, 2 * intermediate, hidden].
            norms: of down columns [experts, intermediate].

        Returns:
            The rotation R [rank, rank] (codes are R' times codes along eigenvectors), and the
            weight of an error along each eigenvector [rank], 1 on average.
        """
        rank = len(self.code)
        moment, weights = moment.double(), gate_up.double()
        values, vectors = torch.linalg.eigh(moment)
        roots = values.clamp(min=1e-6 * float(values[-1])).sqrt()
        root, inverse = vectors * roots @ vectors.T, vectors / roots @ vectors.T
        flat = weights.flatten(0, 1)
        strength, best = torch.linalg.eigh(root @ (flat.T @ flat) @ root)
        rotation = turn(rank)
        basis = best[:, -rank:] @ rotation
        self.code.copy_(basis.T @ inverse)
        self.pack(weights @ root @ basis)
        self.norms.copy_(norms)
        return rotation.float(), (strength[-rank:] / strength[-rank:].mean()).float()

    def pack(self, rows: Tensor) -> None:
        """Round the rows of V_e of all experts to four bits."""
        scale = rows.abs().amax(-1) / 7
        levels = (rows / scale.clamp(min=1e-30)[..., None]).round().to(torch.int64) + 8
        low, high = levels.chunk(2, dim=-1)
        self.rows.copy_(low | high << 4)
        self.scale.copy_(scale)


def turn(rank: int) -> Tensor:
    """The random rotation of codes of this rank, float64 [rank, rank]."""
    noise = torch.randn(rank, rank, generator=torch.Generator().manual_seed(0)).double()
    return torch.linalg.qr(noise)[0]


@torch.no_grad()
def truncate(factors: LayerFactors, geometry: Geometry, rank: int) -> LayerFactors:
    """Reduce the rank without training: undo the rotation and keep the strongest directions.

    The result is optimal for that rank, except that it is rounded to four bits twice. Thresholds
    (`cuts`) are copied from the full rank and do not apply.
    """
    ahead = factors.ahead
    less = LayerFactors(geometry, rank, ahead.inner.out_features if ahead else 0, ahead is not None)
    change = turn(rank).T @ turn(len(factors.code))[-rank:]  # [rank, old rank]
    less.code.copy_(change @ factors.code.double())
    less.pack(factors.dense().double() @ change.T)
    less.norms.copy_(factors.norms)
    less.cuts.copy_(factors.cuts)
    if ahead is not None and less.ahead is not None:
        less.ahead.load_state_dict(
            ahead.state_dict()
            | {
                "linear.weight": change @ ahead.linear.weight.double(),
                "outer.weight": change @ ahead.outer.weight.double(),
                "outer.bias": change @ ahead.outer.bias.double(),
            }
        )
    return less


def layers(geometry: Geometry, rank: int, width: int) -> nn.ModuleList:
    """Factors of every layer; all but the first can be predicted a layer early."""
    return nn.ModuleList(
        LayerFactors(geometry, rank, width, layer > 0) for layer in range(geometry.layers)
    )
