"""Training of `prefetch=mlp`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from moex.prefetch import nets
from moex.train.fit import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moex.train.recipe import Recipe
    from moex.types import Geometry


class ExpertTrainer(Trainer):
    """Trains `prefetch=mlp`: will this token choose expert i in layer l + d?

    Args:
        routers: of every layer [experts, hidden]; the networks start as them.
    """

    def __init__(
        self, geometry: Geometry, routers: Sequence[Tensor], recipe: Recipe, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.geometry = geometry
        self.modules = nets.nets(geometry, recipe.width, recipe.horizon)
        for layer, net in enumerate(self.modules):
            ahead = routers[layer + 1 : layer + 1 + net.horizon]
            net.routers.weight.data.copy_(torch.cat([weight.float() for weight in ahead]))
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

    def learn(self, seen: Sequence[Any], windows: int, progress: float) -> float:
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
