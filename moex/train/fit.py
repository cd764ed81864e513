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
from tqdm.auto import tqdm

from moex.runs.atomic import atomic_write
from moex.train.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.train.data import Corpus

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


def fit(trainer: Trainer, corpus: Corpus, see: See, recipe: Recipe, kept: Path, run: str) -> None:
    """Train until `recipe.tokens` were read.

    Args:
        trainer: is changed.
        corpus: to read.
        see: lets the model read windows.
        recipe: the settings.
        kept: the file of the state, between runs.
        run: names settings, text and code; a state of another name is not taken up.

    Raises:
        ValueError: the loss is no longer a number.
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
            if loss is not None and not math.isfinite(loss):
                raise ValueError(
                    f"train.rate={recipe.rate}: the loss of batch {number} is {loss}; expected a "
                    f"lower rate; try train.rate={min(recipe.rate / 10, Recipe.rate):g}"
                )
            bar.set_postfix(loss=loss)
            bar.update()
            if number % SAVE_EVERY == SAVE_EVERY - 1:
                with atomic_write(kept) as partial:
                    state = {"run": run, "trainer": trainer.state(), "batch": number + 1}
                    torch.save(state, partial)
    trainer.finish()
