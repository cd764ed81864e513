"""Online training: read a batch, learn from it, forget it.

Memory is bounded by one batch, whatever the length of the text. The state is saved as it goes, so
that the same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from tqdm.auto import tqdm

from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.models.memory_needs import fits
from moex.runner.assemble import Setup, offload
from moex.runs.atomic import atomic_write
from moex.runs.run_id import code_version, key_of
from moex.train.activations import read
from moex.train.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.runner.assemble import LoadedModel

    Row = dict[str, Any]
    Tasks = dict[tuple[str, str], list[float]]
    """Values by task and metric."""

    See = Callable[[Tensor], Sequence[Any]]
    """Windows [batch, context] to what each layer saw: objects with `hidden` and `chosen`."""

SAVE_EVERY = 16
WARM = 0.1


class Trainer(ABC):
    """What is trained, how it learns from one batch, and how good it is in the end.

    A prefetcher names its trainer (`Prefetcher.trainer`) and reads what `modules` had learnt.
    """

    modules: Any
    """A `ModuleList`, one for each layer; its state, floats in 16 bits, is the checkpoint."""
    reads: ClassVar[str] = "text"
    """What it learns from: `text`, which a loaded model reads, or a recorded `trace`."""
    about: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed
    """What the reader of the checkpoint has to know besides the tensors."""

    @classmethod
    @abstractmethod
    def of(cls, loaded: Any, recipe: Recipe, seed: int) -> Self:
        """Make the trainer for a loaded model, or for a trace."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.optimizer = torch.optim.AdamW(self.modules.parameters(), recipe.rate, weight_decay=0.0)

    def finish(self) -> None:  # noqa: B027 - need not be overridden
        """Called once, after the last batch."""

    @abstractmethod
    def learn(self, seen: Sequence[Any], windows: int, progress: float) -> float | None:
        """Learn from a batch of so many windows; return the loss, if there was one."""

    def quality(
        self, kind: str, held_out: Sequence[Any], training: Callable[[int], Any]
    ) -> tuple[list[Row], Tasks]:
        """Return rows for quality.json, and the values that the result row averages.

        Args:
            kind: of the predictor.
            held_out: batches of documents that were not trained on.
            training: returns a training batch by its number.
        """
        return [], {}

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


def fit(trainer: Trainer, corpus: Any, see: See, recipe: Recipe, kept: Path, run: str) -> None:
    """Train until `recipe.tokens` were read.

    Args:
        trainer: is changed.
        corpus: a `Corpus` or `Passes` to read.
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


def train(
    kind: str,
    trainer: Trainer,
    corpus: Any,
    see: See,
    recipe: Recipe,
    folder: Path,
) -> tuple[list[Row], Tasks]:
    """Train on a `Corpus` of text or on `Passes` of a trace, and return the trainer's `quality`."""
    given = {"text": corpus.count, "seed": trainer.seed, "code": code_version()}
    named = key_of({**asdict(recipe), **given})
    valid = max(1, -(-recipe.valid_tokens // (recipe.batch * corpus.context)))

    def batch(number: int, held_out: bool = False) -> Sequence[Any]:
        return see(torch.from_numpy(corpus.batch(number, recipe.batch, held_out)))

    fit(trainer, corpus, see, recipe, folder / "training.pt", named)
    return trainer.quality(kind, [batch(number, held_out=True) for number in range(valid)], batch)


@contextmanager
def reading(loaded: LoadedModel) -> Iterator[See]:
    """Let the model read windows of text, all experts resident if memory allows."""
    resident = fits(loaded.geometry.all_bytes, loaded.device)
    memory = Memory(loaded.geometry.experts) if resident else Memory()
    with offload(loaded, Setup(LRU(), memory)) as model:
        yield lambda windows: read(model, loaded.layers, windows)
