"""Training of `prefetch=mlp`, `linear` and `gate_resid`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from moex.predictors import nets
from moex.train.fit import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moex.train.recipe import Recipe
    from moex.types import Geometry

    Router = tuple[Tensor, Tensor]
    """Of a layer: weight [experts, hidden], bias [experts]."""


class ExpertTrainer(Trainer):
    """Trains `prefetch=mlp`: will this token choose expert i in layer l + d?

    Args:
        routers: of every layer; the networks start as them.
        width: of the networks' hidden layer; 0 for linear ones (`prefetch=linear`).
    """

    def __init__(
        self,
        geometry: Geometry,
        routers: Sequence[Router],
        recipe: Recipe,
        seed: int,
        width: int | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.geometry = geometry
        self.width = recipe.width if width is None else width
        self.modules = nets.nets(geometry, self.width, recipe.horizon)
        for layer, net in enumerate(self.modules):
            weights, biases = zip(*routers[layer + 1 : layer + 1 + net.horizon], strict=True)
            last = net.outer if self.width else net.routers
            net.routers.weight.data.copy_(torch.cat(weights))
            last.bias.data.copy_(torch.cat(biases))
        super().__init__(recipe, seed)

    def examples(self, seen: Sequence[Any], windows: int) -> tuple[list[Tensor], list[Tensor]]:
        """Choices and pasts of every layer [tokens, experts], as a run would have seen them."""
        experts = self.geometry.experts
        chosen = [nets.multi_hot(layer.chosen, experts) for layer in seen]
        length = len(chosen[0]) // windows
        age = torch.arange(length)[:, None] - torch.arange(length) - 1
        weigh = torch.where(
            age >= 0, (1 - nets.DECAY) * nets.DECAY ** age.clamp(min=0).float(), 0.0
        )
        return chosen, [(weigh @ hot.view(windows, length, -1)).flatten(0, 1) for hot in chosen]

    def learn(self, seen: Sequence[Any], windows: int, progress: float) -> float | None:
        """Learn from all layers together."""
        chosen, past = self.examples(seen, windows)
        total = 0.0
        steps = self.steps(len(chosen[0]), int(progress * 1e9))
        for rows in steps:
            loss = torch.zeros(())
            for layer, net in enumerate(self.modules):
                ahead = slice(layer + 1, layer + 1 + net.horizon)
                logits = net(
                    seen[layer].hidden[rows],
                    chosen[layer][rows],
                    torch.stack([each[rows] for each in past[ahead]], dim=1),
                )
                wanted = torch.stack([each[rows] for each in chosen[ahead]], dim=1)
                loss = loss + functional.binary_cross_entropy_with_logits(logits, wanted)
            total += self.descend(loss / len(self.modules), progress)
        return total / len(steps)


class ResidTrainer(ExpertTrainer):
    """Finds the biases of `prefetch=gate_resid`: the routers of the mean change of their input.

    Nothing is learnt by gradients, and nothing of the text is kept but sums.
    """

    def __init__(
        self, geometry: Geometry, routers: Sequence[Router], recipe: Recipe, seed: int
    ) -> None:
        super().__init__(geometry, routers, recipe, seed, width=0)
        self.tokens = 0
        self.sums = torch.zeros(geometry.layers, geometry.hidden, dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """The sums."""
        return {**super().state(), "tokens": self.tokens, "sums": self.sums}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        super().restore(state)
        self.tokens, self.sums = state["tokens"], state["sums"]

    def learn(self, seen: Sequence[Any], windows: int, progress: float) -> None:
        """Count."""
        self.tokens += len(seen[0].hidden)
        for total, layer in zip(self.sums, seen, strict=True):
            total += layer.hidden.double().sum(0)

    @torch.no_grad()
    def finish(self) -> None:
        """Add what the routers make of the means."""
        means = self.sums / self.tokens
        for layer, net in enumerate(self.modules):
            ahead = means[layer + 1 : layer + 1 + net.horizon] - means[layer]
            weight = net.routers.weight.unflatten(0, (net.horizon, -1)).double()
            net.routers.bias += torch.einsum("deh,dh->de", weight, ahead).flatten()
