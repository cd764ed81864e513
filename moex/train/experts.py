"""Training of `prefetch=mlp`, `linear` and `gate_resid`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch.nn import functional

from moex.predictors import nets
from moex.train import quality
from moex.train.activations import routers_of
from moex.train.fit import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from moex.runner.assemble import LoadedModel
    from moex.train.activations import Router
    from moex.train.fit import Row, Tasks
    from moex.train.recipe import Recipe
    from moex.types import Geometry


class ExpertTrainer(Trainer):
    """Trains `prefetch=mlp`: will this token choose expert i in layer l + d?

    Args:
        routers: of every layer; the networks start as them.
    """

    linear: ClassVar[bool] = False
    """Whether the networks have no hidden layer."""

    def __init__(
        self, geometry: Geometry, routers: Sequence[Router], recipe: Recipe, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.geometry, self.routers = geometry, routers
        self.width = 0 if self.linear else recipe.width
        self.about = {"width": self.width, "horizon": recipe.horizon}
        self.modules = nets.nets(geometry, self.width, recipe.horizon)
        for layer, net in enumerate(self.modules):
            weights, biases = zip(*routers[layer + 1 : layer + 1 + net.horizon], strict=True)
            last = net.outer if self.width else net.routers
            net.routers.weight.data.copy_(torch.cat(weights))
            last.bias.data.copy_(torch.cat(biases))
        super().__init__(recipe, seed)

    @classmethod
    def of(cls, loaded: LoadedModel, recipe: Recipe, seed: int) -> Self:
        """Start from the model's routers."""
        return cls(loaded.geometry, routers_of(loaded), recipe, seed)

    def quality(
        self, kind: str, held_out: Sequence[Any], training: Callable[[int], Any]
    ) -> tuple[list[Row], Tasks]:
        """Recall and precision; as tasks, recall at the fewest experts named, beside the gate's."""
        batches = [(seen, self.recipe.batch) for seen in held_out]
        rows = quality.of_experts(self, self.routers, batches)
        least = min(row["named"] for row in rows)
        tasks: Tasks = {}
        for row in sorted(rows, key=lambda row: row["horizon"]):
            for name, prefix in ((kind, ""), ("gate", "gate_")) if row["named"] == least else ():
                task = f"{name}_horizon{row['horizon']}", f"recall@{least}"
                tasks.setdefault(task, []).append(row[f"{prefix}recall"])
        return rows, tasks

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


class LinearTrainer(ExpertTrainer):
    """Trains `prefetch=linear`: networks without hidden layers."""

    linear = True


class ResidTrainer(LinearTrainer):
    """Finds the biases of `prefetch=gate_resid`: the routers of the mean change of their input.

    Nothing is learnt by gradients, and nothing of the text is kept but sums.
    """

    def __init__(
        self, geometry: Geometry, routers: Sequence[Router], recipe: Recipe, seed: int
    ) -> None:
        super().__init__(geometry, routers, recipe, seed)
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
