"""Online training: read a batch, learn from it, forget it.

Memory is bounded by one batch, whatever the length of the text. The state is saved as it goes, so
that the same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from tqdm.auto import tqdm

from moex.files import whole
from moex.prefetch import nets
from moex.sparsity import lowrank

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.train.data import Corpus
    from moex.train.recipe import Recipe
    from moex.types import Geometry

    See = Callable[[Tensor], Sequence[Any]]
    """Windows [batch, context] to what each layer saw: objects with `hidden` and `chosen`."""

SAVE_EVERY = 16
WARM = 0.1


class Trainer(ABC):
    """What is trained, and how it learns from one batch."""

    modules: Any
    """A `ModuleList`, one for each layer."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.optimizer = torch.optim.AdamW(self.modules.parameters(), recipe.rate, weight_decay=0.0)

    def finish(self) -> None:  # noqa: B027 - need not be overridden
        """Called once, after the last batch."""

    @abstractmethod
    def learn(self, seen: Sequence[Any], windows: int, progress: float) -> float | None:
        """Learn from a batch of so many windows; return the loss, if there was one."""

    def state(self) -> dict[str, Any]:
        """Everything that a run taken up again needs."""
        return {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])

    def steps(self, tokens: int, number: int) -> Sequence[Tensor]:
        """Tokens of a batch, shuffled and cut into optimizer steps."""
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return torch.randperm(tokens, generator=draw).split(self.recipe.step)

    def descend(self, loss: Tensor, progress: float) -> float:
        """One optimizer step: the rate rises for a tenth of the run, then falls as a cosine."""
        rise = min(1.0, (progress + 1e-3) / WARM)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * rise * 0.5 * (1 + math.cos(math.pi * progress))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


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


class NeuronTrainer(Trainer):
    """Trains `sparsity=corm`: factors from statistics, then codes guessed a layer early.

    The factors are not trained by gradients: their closed form from the second moment of the states
    recalls more neurons than a network of equal size trained on labels (experiments/11_predictors).

    Args:
        weights: of a layer: rows of gate and up [experts, 2 * intermediate, hidden], norms of down
            columns [experts, intermediate].
    """

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
        self.weights = weights
        self.modules = lowrank.layers(geometry, recipe.rank, recipe.width)
        shape = (geometry.layers, geometry.hidden, geometry.hidden)
        self.moments = {name: torch.zeros(shape) for name in ("own", "next")}
        self.turns: list[tuple[Tensor, Tensor]] = []
        super().__init__(recipe, seed)

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
        """Fill the factors, and start the guesses at linear regression.

        Guesses are trained along eigenvectors, where every error has a weight of its own and Adam
        can scale each: in the rotated code the same loss ends a tenth higher.
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
        """Turn the guesses into the rotated code."""
        for factors, (rotation, _) in zip(self.modules, self.turns, strict=True):
            if factors.ahead is not None:
                for layer in (factors.ahead.linear, factors.ahead.outer):
                    layer.weight.copy_(rotation.T @ layer.weight)
                factors.ahead.outer.bias.copy_(rotation.T @ factors.ahead.outer.bias)

    def learn(self, seen: Sequence[Any], windows: int, progress: float) -> float | None:
        """Count at first; then learn to guess codes, errors weighed as gate and up feel them."""
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
                guess = factors.encode(seen[layer - 1].hidden[rows], early=True)
                loss = loss + ((guess - wanted).square() * weight).mean()
            total += self.descend(loss / max(1, len(self.modules) - 1), progress)
        return total / len(steps)


def fit(trainer: Trainer, corpus: Corpus, see: See, recipe: Recipe, kept: Path, run: str) -> None:
    """Train until `recipe.tokens` were read.

    Args:
        trainer: is changed.
        corpus: to read.
        see: lets the model read windows.
        recipe: the settings.
        kept: the file of the state, between runs.
        run: names settings, text and code; a state of another name is not taken up.
    """
    batches = max(2, math.ceil(recipe.tokens / (recipe.batch * corpus.context)))
    first = 0
    with suppress(FileNotFoundError):
        state = torch.load(kept, weights_only=True)
        if state["run"] == run:
            trainer.restore(state["trainer"])
            first = state["batch"]
    with tqdm(total=batches, initial=first, desc="training batches", disable=None) as bar:
        for number in range(first, batches):
            seen = see(torch.from_numpy(corpus.batch(number, recipe.batch)))
            loss = trainer.learn(seen, recipe.batch, number / batches)
            bar.set_postfix(loss=loss)
            bar.update()
            if number % SAVE_EVERY == SAVE_EVERY - 1:
                with whole(kept) as partial:
                    state = {"run": run, "trainer": trainer.state(), "batch": number + 1}
                    torch.save(state, partial)
    trainer.finish()
