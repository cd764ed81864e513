"""Router scores: of this layer for the trace, of later layers for the gate lookahead.

Most routers are a product with a matrix, softmax and top-k: the scores of several layers then cost
one product, and a row is the softmax. Others add a bias, use a sigmoid, or restrict the choice to
groups of experts; such a router is called itself, and a row holds the weights of the chosen experts
(normalized to a sum of 1 per token) and 0 for all others.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

PROBES = 64

log = logging.getLogger(__name__)


class BiasedRouter(nn.Module):
    """Wraps a router that takes a bias of its block as second argument."""

    def __init__(self, router: nn.Module, block: nn.Module, bias: str) -> None:
        super().__init__()
        self.router, self.bias = router, bias
        self.block = (block,)  # not as a submodule: its weights are not the router's

    @classmethod
    def of(cls, router: nn.Module, block: nn.Module, experts: int) -> nn.Module:
        """Wrap the router if it needs a bias; else return it unchanged."""
        held = [n for n, b in block.named_buffers(recurse=False) if b.shape == (experts,)]
        takes = len(inspect.signature(router.forward).parameters)
        return cls(router, block, held[0]) if takes == 2 and len(held) == 1 else router

    def forward(self, hidden: Tensor) -> Any:
        """Call the router with the current bias, because loading replaces it."""
        return self.router(hidden, getattr(self.block[0], self.bias))


class Lookahead:
    """Router rows of a layer and the `depth` layers after it, for one layer's router input.

    Args:
        routers: the router of every MoE layer, in order; None if not found.
        hidden: width of their input.
        depth: number of layers ahead.
    """

    def __init__(self, routers: Sequence[nn.Module | None], hidden: int, depth: int) -> None:
        self.depth = depth
        self.routers = [router for router in routers if router is not None]
        self.kind = "silent"
        if len(self.routers) == len(routers):
            kinds = {_kind(router, hidden) for router in self.routers}
            self.kind = next((k for k in ("silent", "asked") if k in kinds), "softmax")
        if self.kind == "silent":
            log.warning("moex: this model's routers cannot be called: no scores, no gate lookahead")
        if self.kind == "softmax":
            weights = [_weight(router) for router in self.routers]
            biases = [
                _bias(router, weight) for router, weight in zip(self.routers, weights, strict=True)
            ]
            self._experts = len(weights[0])
            weight = torch.cat(weights)  # once: each layer uses a slice of its rows
            bias = torch.cat(biases) if None not in biases else None  # type: ignore[arg-type]
            starts = range(0, len(weight), self._experts)
            spans = [slice(start, start + (1 + depth) * self._experts) for start in starts]
            self._asked = [(weight[s], None if bias is None else bias[s]) for s in spans]

    @property
    def knows(self) -> bool:
        """Whether router scores are available."""
        return self.kind != "silent"

    def must_know(self, prefetcher: str, model: str) -> None:
        """Raise a ValueError if a prefetcher needs scores and there are none."""
        if not self.knows:
            raise ValueError(
                f"prefetch: {prefetcher} calls the routers of later layers, but those of {model} "
                "cannot be called; try prefetch=markov"
            )

    def rows(self, number: int, hidden: Tensor) -> list[tuple[float, ...]]:
        """Rows of layers `number` to `number + depth`, summed over the tokens [tokens, hidden]."""
        if self.kind == "silent":
            return [()]
        if self.kind == "softmax":
            weight, bias = self._asked[number]
            given = hidden if hidden.dtype == weight.dtype else hidden.to(weight.dtype)
            logits = functional.linear(given, weight, bias)
            each = logits.view(len(hidden), -1, self._experts)
            found = each.softmax(-1, dtype=torch.float32).sum(0)
        else:
            ahead = self.routers[number : number + 1 + self.depth]
            found = torch.stack([_asked(router, hidden).sum(0) for router in ahead])
        return [tuple(row) for row in found.tolist()]


def _kind(router: nn.Module, hidden: int) -> str:
    """`softmax`, `asked` or `silent`, determined by a test call."""
    weight = _weight(router)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(PROBES, hidden, generator=generator).to(weight.device, weight.dtype)
    with torch.inference_mode():
        try:
            _, weights, index = router(probe)
            rows = _asked(router, probe)
        except (TypeError, ValueError, RuntimeError):
            return "silent"
        if index.shape != weights.shape or index.dtype.is_floating_point:
            return "silent"
        parts = sum(1 for _ in router.parameters()) + sum(1 for _ in router.buffers())
        bias = _bias(router, weight)
        if parts != 1 + (bias is not None) or isinstance(router, BiasedRouter):
            return "asked"
        softmax = functional.linear(probe, weight, bias).softmax(-1, dtype=torch.float32)
        best = softmax.topk(index.shape[1])[1]
        kept = torch.zeros_like(softmax).scatter(1, best, softmax.gather(1, best))
        kept /= kept.sum(-1, keepdim=True)
    # In half precision near ties may be broken differently in a few rows.
    same = (kept - rows).abs().amax(-1) < 2e-2
    return "softmax" if same.float().mean() > 0.9 else "asked"


def _weight(router: nn.Module) -> Tensor:
    return next(p.detach() for p in router.parameters() if p.dim() == 2)


def _bias(router: nn.Module, weight: Tensor) -> Tensor | None:
    return next(
        (p.detach() for n, p in router.named_parameters() if n == "bias" and len(p) == len(weight)),
        None,
    )


def _asked(router: nn.Module, hidden: Tensor) -> Tensor:
    """The router's own weights, scattered to [tokens, experts]; they sum to 1 per token."""
    _, weights, index = router(hidden)
    chosen = weights.float()
    row = torch.zeros(len(hidden), len(_weight(router)), device=hidden.device)
    return row.scatter(1, index, chosen / chosen.sum(-1, keepdim=True).clamp_min(1e-20))
