"""How a model's routers choose and weigh experts, so that other choices can be weighed as well."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from moex.models.router_scores import PROBES, BiasedRouter
from moex.routing.base import EXCLUDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from moex.models.router_scores import Lookahead

BASES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": partial(torch.softmax, dim=-1, dtype=torch.float32),
    "sigmoid": torch.sigmoid,
}
"""What makes scores of logits."""

GROUPED: dict[str, Callable[[Tensor], Tensor]] = {
    "one": lambda grouped: grouped.amax(-1),
    "two": lambda grouped: grouped.topk(2, -1)[0].sum(-1),
}
"""What ranks groups of experts [tokens, groups, experts of each]: their best one, or two."""


class Rule(NamedTuple):
    """How a family of routers chooses and weighs experts.

    Args:
        base: the name in `BASES`.
        group: the name in `GROUPED`; "": groups limit nothing.
        normalized: whether weights are normalized over the chosen experts.
        scale: their factor.
    """

    base: str
    group: str = ""
    normalized: bool = False
    scale: float = 1.0

    def ranks_by(self, router: nn.Module, logits: Tensor) -> Tensor:
        """Return what the router takes the largest k of [tokens, experts].

        Logits if nothing else touches their order; else scores, with the router's bias, and
        `EXCLUDED` in groups that are not among the best.
        """
        bias, (groups, best) = _bias(router, logits.shape[-1]), _groups(router)
        if self.base == "softmax" and bias is None and not self.group:
            return logits
        scores = BASES[self.base](logits.float())
        if bias is not None:
            scores = scores + bias
        if not self.group:
            return scores
        ranked = GROUPED[self.group](scores.unflatten(-1, (groups, -1)))
        kept = torch.zeros_like(ranked, dtype=torch.bool)
        kept.scatter_(-1, ranked.topk(best, -1)[1], True)
        kept = kept.repeat_interleave(scores.shape[-1] // groups, -1)
        return scores.masked_fill(~kept, EXCLUDED)

    def weights(self, logits: Tensor, index: Tensor) -> Tensor:
        """Return the weights of a choice [tokens, k], 0 where it is -1."""
        shares = BASES[self.base](logits.float()).gather(1, index.clamp_min(0).long())
        shares = shares.masked_fill(index < 0, 0.0)
        if self.normalized:
            shares = shares / shares.sum(1, keepdim=True)
        return shares * self.scale


class RouterLogits:
    """Raw logits of every router, read as the model computes them, and weights made of them.

    Args:
        lookahead: has found the routers.
        hidden: width of their input.
        model: its name, for the message.

    Raises:
        ValueError: routers that follow no known rule, so that the weights of other experts are not
            known.
    """

    def __init__(self, lookahead: Lookahead, hidden: int, model: str) -> None:
        found = None
        if lookahead.knows:
            rules = {_rule(router, hidden) for router in lookahead.routers}
            found = rules.pop() if len(rules) == 1 else None
        if found is None:
            raise ValueError(
                f"routing: the routers of {model} do not choose by softmax or sigmoid, a bias, "
                "groups and top-k alone, so the weights of other experts do not follow from their "
                "logits; expected e.g. Mixtral, Qwen3-MoE or DeepSeek; try routing=none"
            )
        self.routers, self.rule = lookahead.routers, found
        self.raw = all(found.ranks_by(each, probe) is probe for each, probe in self._probes())
        """Whether routers rank experts by their raw logits."""
        self._latest: dict[int, Tensor] = {}

    def _probes(self) -> list[tuple[nn.Module, Tensor]]:
        return [(router, torch.zeros(1, _experts(router))) for router in self.routers]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Read logits while the context is open."""
        with ExitStack() as stack:
            for number, router in enumerate(self.routers):
                called = router.router if isinstance(router, BiasedRouter) else router
                stack.callback(called.register_forward_hook(partial(self._keep, number)).remove)
            yield

    def _keep(self, number: int, _: nn.Module, __: object, output: tuple[Tensor, ...]) -> None:
        self._latest[number] = output[0]

    def take(self, number: int, tokens: int) -> Tensor:
        """Return the logits [tokens, experts] of a layer's router in this pass."""
        logits = self._latest.pop(number)
        return logits.reshape(tokens, -1)

    def ranks_by(self, number: int, logits: Tensor) -> Tensor:
        """Return what a layer's router takes the largest k of [tokens, experts]."""
        return self.rule.ranks_by(self.routers[number], logits)

    def weights(self, logits: Tensor, index: Tensor, own: Tensor, final: Tensor) -> Tensor:
        """Return the weights of a choice [tokens, k], 0 where it is -1.

        They are the model's own, bit for bit, where the choice is: of a single expert if weights
        are the scores themselves, of a token if they are normalized over its experts.

        Args:
            logits: of the router [tokens, experts].
            index: the model's own choice [tokens, k].
            own: its weights [tokens, k].
            final: the choice [tokens, k].
        """
        same = index == final
        if self.rule.normalized:
            same = same.all(1, keepdim=True)
        return torch.where(same, own, self.rule.weights(logits, final).to(own.dtype))


def _rule(router: nn.Module, hidden: int) -> Rule | None:
    """Return the rule that a router follows, found by a test call; None: no known one."""
    weight = next(p.detach() for p in router.parameters() if p.dim() == 2 and p.shape[1] == hidden)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(PROBES, hidden, generator=generator).to(weight.device, weight.dtype)
    groups, best = _groups(router)
    limits = ["", *GROUPED] if best < groups else [""]
    found: list[tuple[float, Rule]] = []
    with torch.inference_mode():
        logits, own, index = router(probe)
        logits = logits.reshape(PROBES, -1)
        for base in BASES:
            for group in limits:
                ranked = Rule(base, group).ranks_by(router, logits)
                same = ranked.topk(index.shape[1], -1)[1].sort(-1)[0] == index.sort(-1)[0]
                weighed = _weighing(base, logits, index, own)
                if weighed:
                    found.append((float(same.all(-1).float().mean()), Rule(base, group, *weighed)))
    # In half precision near ties may be broken differently in a few rows.
    agreeing, rule = max(found, key=lambda each: each[0], default=(0.0, None))
    return rule if agreeing > 0.9 else None


def _weighing(base: str, logits: Tensor, index: Tensor, own: Tensor) -> tuple[bool, float] | None:
    """Whether a router normalizes over the chosen experts, and its factor; None: unknown."""
    for normalized in (False, True):
        ratio = own.float() / Rule(base, "", normalized).weights(logits, index)
        scale = float(ratio.median())
        if ((ratio / scale - 1).abs() < 2e-2).float().mean() > 0.9:
            return normalized, 1.0 if abs(scale - 1) < 1e-3 else round(scale, 4)
    return None


def _experts(router: nn.Module) -> int:
    return next(len(p) for p in router.parameters() if p.dim() == 2)


def _bias(router: nn.Module, experts: int) -> Tensor | None:
    """The bias that a router adds to scores before it chooses: its only other values."""
    if isinstance(router, BiasedRouter):
        return getattr(router.block[0], router.bias)
    values = [*router.named_parameters(), *router.named_buffers()]
    found = [each for name, each in values if each.numel() == experts and name != "bias"]
    return found[0].detach().reshape(experts) if len(found) == 1 else None


def _groups(router: nn.Module) -> tuple[int, int]:
    """The groups of a router's experts, and of how many of them it chooses."""
    held = vars(router)
    groups = held.get("num_group") or 1
    return groups, held.get("topk_group") or groups
