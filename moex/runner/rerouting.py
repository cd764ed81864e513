"""Applies a routing policy in a live model: from the router's result to the experts' weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from moex.decisions.rerouter import Choice, choose
from moex.routing.base import NONE
from moex.runner.router_logits import RouterLogits
from moex.trace.router_rows import RouterRows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from moex.models.router_scores import Lookahead
    from moex.routing.base import RoutingPolicy
    from moex.runner.offloaded import OffloadedModel


class Routed(NamedTuple):
    """A visit's experts [tokens, k] (-1: none), their weights, and the choice behind them."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, never called
    weights: Tensor
    choice: Choice


class Rerouting:
    """A routing policy, and the hooks that read the router logits it chooses from.

    Args:
        policy: chooses the experts.
        logits: of the model's routers.
    """

    def __init__(self, policy: RoutingPolicy, logits: RouterLogits) -> None:
        self.policy, self.logits = policy, logits

    @property
    def about(self) -> dict[str, Any]:
        """What a trace says of it."""
        return {"routing": self.policy.identity, "raw_logits": self.logits.raw}

    @classmethod
    def of(
        cls, policy: RoutingPolicy | None, lookahead: Lookahead, hidden: int, model: nn.Module
    ) -> Rerouting | None:
        """Return one for a model whose routers were tested; None without a policy."""
        if policy is None:
            return None
        logits = RouterLogits(lookahead, hidden, type(model).__name__)
        policy.refuse_scores(logits.raw)
        return cls(policy, logits)

    def route(self, run: OffloadedModel, number: int, index: Tensor, weights: Tensor) -> Routed:
        """Choose the experts of a visit.

        Args:
            run: whose cache, clock, phase and attention mask count.
            number: of the MoE layer.
            index: the model's own choice [tokens, k].
            weights: of it [tokens, k].
        """
        logits = self.logits.take(number, len(index))
        rows = RouterRows(
            self.logits.ranks_by(number, logits).float().cpu().numpy(),
            index.long().cpu().numpy(),
            weights.float().cpu().numpy(),
            padding(run.mask, len(index)).cpu().numpy(),
            index.long().cpu().numpy(),
        )
        made = choose(self.policy, rows, run.cache, (run.journal.clock, number, run.phase))
        if (made.rows.final == rows.index).all():
            return Routed(index, weights, made)
        final = torch.from_numpy(made.rows.final).to(index.device, index.dtype)
        return Routed(final, self.logits.weights(logits, index, weights, final), made)


def padding(mask: Tensor | None, tokens: int) -> Tensor:
    """Return which tokens of a pass are padding [tokens].

    `mask` [batch, positions so far] is the pass's attention mask; one of another kind marks none.
    """
    if mask is None or mask.dim() != 2:
        return torch.zeros(tokens, dtype=torch.bool)
    length = tokens // len(mask)
    return (mask[:, -length:] == 0).reshape(-1)


def given(index: Tensor) -> Tensor:
    """Return a choice for prefetchers: a token's last expert stands where it has none."""
    return torch.where(index == NONE, index.max(1, keepdim=True).values, index)
