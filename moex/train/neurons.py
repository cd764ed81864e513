"""Training of `sparsity=corm`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch

from moex.predictors import lowrank
from moex.train import quality
from moex.train.activations import contributions, factors_of
from moex.train.fit import WARM, Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from moex.runner.assemble import LoadedModel
    from moex.train.fit import Row, Tasks
    from moex.train.recipe import Recipe
    from moex.types import Geometry

BATCHES = 4
"""Training batches that thresholds are taken from."""


class NeuronTrainer(Trainer):
    """Trains `sparsity=corm`: factors from statistics, then codes predicted a layer early.

    The factors are not trained by gradients: their closed form from the second moment of the states
    recalls more neurons than a network of equal size trained on labels
    (experiments/bundled_model/predictors).

    Args:
        weights: of a layer: rows of gate and up [experts, 2 * intermediate, hidden], norms of down
            columns [experts, intermediate].
    """

    truth: Callable[[int, int, Tensor], Tensor]
    """True contributions of (layer, expert, states) [tokens, intermediate]."""

    def __init__(
        self,
        geometry: Geometry,
        weights: Callable[[int], tuple[Tensor, Tensor]],
        recipe: Recipe,
        seed: int,
    ) -> None:
        if recipe.rank > geometry.hidden:
            raise ValueError(
                f"train.rank={recipe.rank}: expected at most {geometry.hidden}, the hidden size; "
                f"try train.rank={geometry.hidden // 2}"
            )
        torch.manual_seed(seed)
        self.weights, self.about = weights, {"width": recipe.width, "rank": recipe.rank}
        self.modules = lowrank.layers(geometry, recipe.rank, recipe.width)
        shape = (geometry.layers, geometry.hidden, geometry.hidden)
        self.moments = {name: torch.zeros(shape) for name in ("own", "next")}
        self.turns: list[tuple[Tensor, Tensor]] = []
        super().__init__(recipe, seed)

    @classmethod
    def of(cls, loaded: LoadedModel, recipe: Recipe, seed: int) -> Self:
        """Read the weights of the model's experts."""
        made = cls(loaded.geometry, partial(factors_of, loaded), recipe, seed)
        made.truth = partial(contributions, loaded)
        return made

    def quality(
        self, kind: str, held_out: Sequence[Any], training: Callable[[int], Any]
    ) -> tuple[list[Row], Tasks]:
        """Set the thresholds; then both recalls by layer and way of selecting."""
        quality.calibrate(self.modules, [training(number) for number in range(BATCHES)])
        rows = quality.of_neurons(self.modules, self.truth, held_out)
        return rows, {
            (f"{kind}_{way}_{name}", name): [row[name] for row in rows if row["way"] == way]
            for way in ("late", "predicted", "freq", "oracle")
            for name in ("neuron_recall", "energy_recall")
        }

    def state(self) -> dict[str, Any]:
        """The modules and the statistics."""
        return {**super().state(), "moments": self.moments, "turns": self.turns}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        super().restore(state)
        self.moments, self.turns = state["moments"], state["turns"]

    @torch.no_grad()
    def _count(self, seen: Sequence[Any]) -> None:
        for layer, view in enumerate(seen):
            self.moments["own"][layer] += view.hidden.T @ view.hidden
            if layer:
                self.moments["next"][layer] += seen[layer - 1].hidden.T @ view.hidden

    @torch.no_grad()
    def _factor(self) -> None:
        """Fill the factors, and start the predictions at linear regression.

        They are trained along eigenvectors, where every error has a weight of its own and Adam can
        scale each: in the rotated code the same loss ends a tenth higher.
        """
        scale = self.moments["own"].diagonal(dim1=1, dim2=2).mean()
        own, ahead = (moment.double() / scale for moment in self.moments.values())
        for layer, factors in enumerate(self.modules):
            rotation, weight = factors.fill(own[layer], *self.weights(layer))
            self.turns.append((rotation, weight))
            if factors.ahead is not None:
                before = own[layer - 1] + 1e-4 * torch.eye(len(own[layer]))
                regression = torch.linalg.solve(before, ahead[layer]).T
                linear = rotation.double() @ factors.code.double() @ regression
                factors.ahead.linear.weight.copy_(linear)

    @torch.no_grad()
    def finish(self) -> None:
        """Rotate the predictions into the code's own basis."""
        for factors, (rotation, _) in zip(self.modules, self.turns, strict=True):
            if factors.ahead is not None:
                for layer in (factors.ahead.linear, factors.ahead.outer):
                    layer.weight.copy_(rotation.T @ layer.weight)
                factors.ahead.outer.bias.copy_(rotation.T @ factors.ahead.outer.bias)

    def learn(self, seen: Sequence[Any], windows: int, progress: float) -> float | None:
        """Count at first; then learn to predict codes, errors weighed as gate and up feel them."""
        if progress < WARM and not self.turns:
            self._count(seen)
            return None
        if not self.turns:
            if not self.moments["own"].any():
                self._count(seen)
            self._factor()
        total = 0.0
        steps = self.steps(len(seen[0].hidden), int(progress * 1e9))
        for rows in steps:
            loss = torch.zeros(())
            for layer, factors in enumerate(self.modules[1:], start=1):
                rotation, weight = self.turns[layer]
                wanted = factors.encode(seen[layer].hidden[rows], early=False) @ rotation.T
                prefetch = factors.encode(seen[layer - 1].hidden[rows], early=True)
                loss = loss + ((prefetch - wanted).square() * weight).mean()
            total += self.descend(loss / max(1, len(self.modules) - 1), progress)
        return total / len(steps)
