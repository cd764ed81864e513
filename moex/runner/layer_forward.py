"""The computing of one layer visit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from moex.types import Expert


class StreamedWeights(dict[str, Any]):
    """The weights of an expert that may still be on its way: one is waited for when it is needed.

    Args:
        weights: by their names.
        ends: how much of the expert has to be there to compute with a weight.
        wait: for so many of its bytes.
    """

    def __init__(
        self, weights: Mapping[str, Any], ends: Mapping[str, int], wait: Callable[[int], object]
    ) -> None:
        super().__init__(weights)
        self._ends, self._wait = ends, wait

    def __getitem__(self, name: str) -> Any:
        self._wait(self._ends[name])
        return super().__getitem__(name)


class LayerForward:
    """The computing of one visit. Every result lands in its top-k position and is summed last.

    So the order in which experts arrive cannot change a bit; the arithmetic is `grouped_mm`'s.
    `dropping`: positions may hold -1, where nothing is computed.
    """

    def __init__(
        self,
        experts: nn.Module,
        hidden: Tensor,
        index: Tensor,
        weights: Tensor,
        chosen: list[list[int]],
        dropping: bool = False,
    ) -> None:
        self.experts, self.hidden, self.weights, self.chosen = experts, hidden, weights, chosen
        self.index = index
        kind = torch.promote_types(hidden.dtype, weights.dtype)
        self.out = torch.empty(*index.shape, hidden.shape[1], dtype=kind, device=hidden.device)
        if dropping:
            self.out.masked_fill_((index < 0).unsqueeze(-1), 0.0)
        if len(chosen) == 1:
            self._split()
        else:
            order, rows = torch.sort(index.reshape(-1))  # as stock does it, ties included
            if dropping:
                rows, order = rows[order >= 0], order[order >= 0]
            counts = torch.bincount(order, minlength=int(order[-1]) + 1).tolist()
            self.rows = rows.split(counts)

    def _split(self) -> None:
        """Of one token: where each top-k position's result goes, and what it weighs."""
        self._into = list(zip(self.out.unbind(1), self.weights.split(1, 1), strict=True))

    def tokens_of(self, expert: Expert) -> Tensor:
        """The tokens of the visit that chose the expert, in the order in which it is computed."""
        return self.rows[expert[1]] // self.weights.shape[1]

    def tokens(self, expert: Expert) -> Tensor:
        """The tokens [n, hidden] that chose the expert."""
        if len(self.chosen) == 1:
            return self.hidden
        return self.hidden[self.tokens_of(expert)]

    def put(self, expert: Expert, result: Tensor) -> None:
        """Weigh an expert's output for `tokens(expert)` and keep it in its place."""
        if len(self.chosen) == 1:
            out, weight = self._into[self.chosen[0].index(expert[1])]
            torch.mul(result, weight, out=out)
            return
        rows = self.rows[expert[1]]
        self.out.view(-1, self.out.shape[-1])[rows] = result * self.weights.reshape(-1)[
            rows
        ].unsqueeze(-1)

    def skip(self, experts: Sequence[Expert]) -> None:
        """Leave experts out: what the others weigh is scaled up to the same sum."""
        if not experts:
            return
        left_out = torch.tensor([e.index for e in experts], device=self.index.device)
        gone = torch.isin(self.index, left_out)
        kept = self.weights.masked_fill(gone, 0.0)
        rest = kept.sum(1, keepdim=True)
        self.weights = kept * torch.where(rest > 0, self.weights.sum(1, keepdim=True) / rest, 0.0)
        self.out[gone] = 0.0
        if len(self.chosen) == 1:
            self._split()

    def postpone(self, experts: Sequence[Expert]) -> None:
        """Leave experts out for now; `later` adds their outputs up."""
        for expert in experts:
            self.out[self.index == expert.index] = 0.0
        self.hidden = self.hidden.clone()  # the model goes on with it

    def later(self) -> LayerForward:
        """Begin anew, after `result`: of what is put from now on only."""
        self.out.zero_()
        return self

    def result(self) -> Tensor:
        """Sum over the top-k positions, in the type of the products."""
        return self.out.sum(dim=1)
