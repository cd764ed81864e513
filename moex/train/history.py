"""Training of `prefetch=history`, from a recorded trace and without its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch.nn import functional

from moex.predictors.history import history_nets
from moex.prefetch.history import DECAY
from moex.train.fit import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from moex.trace.format import Trace
    from moex.train.fit import Row, Tasks
    from moex.train.recipe import Recipe
    from moex.types import Geometry

HELD_OUT_EVERY = 20


class Seen(NamedTuple):
    """Windows of passes: demanded experts, and which passes begin a request or decode.

    `demanded` is 0 or 1 [windows, context, layers, experts], the others [windows, context].
    """

    demanded: Tensor
    begins: Tensor
    decodes: Tensor


@dataclass
class Passes:
    """The whole passes of a trace, in windows; every twentieth window is held out.

    Args:
        trace: the recorded routing.
        context: passes a window, which may hold the end of a request and the start of another.
        source: what was recorded, for provenance and messages.
        seed: of the order of windows.

    Raises:
        ValueError: fewer than two windows.
    """

    trace: Trace
    context: int
    source: str
    seed: int = 0

    def __post_init__(self) -> None:
        order = np.arange(self.trace.geometry.layers)
        starts = np.flatnonzero(self.trace.layer == 0)
        starts = starts[starts + len(order) <= len(self.trace)]
        whole = self.trace.layer[starts[:, None] + order] == order
        self.starts = starts[whole.all(1)]
        position = self.trace.position[self.starts].astype(np.int64)
        self.begins = np.diff(position, prepend=position[:1]) <= 0
        windows = np.arange(0, len(self.starts) - self.context + 1, self.context)
        if len(windows) < 2:
            raise ValueError(
                f"trace={self.source}: holds {len(self.starts)} whole passes; expected at least "
                f"two windows of train.context={self.context}; "
                f"try train.context={max(8, len(self.starts) // 20)}, or a longer trace"
            )
        held = np.arange(len(windows)) % HELD_OUT_EVERY == 1
        self.windows = {True: windows[held], False: windows[~held]}
        np.random.default_rng(self.seed).shuffle(self.windows[False])
        self.count = len(self.windows[False]) * self.context

    def batch(self, number: int, size: int, held_out: bool = False) -> NDArray[np.int64]:
        """Passes [size, context] of batch `number`; after the last comes the first again."""
        windows = self.windows[held_out]
        starts = windows[np.arange(number * size, (number + 1) * size) % len(windows)]
        return starts[:, None] + np.arange(self.context)

    def see(self, passes: Tensor) -> list[Seen]:
        """Return what was demanded in these passes [windows, context]."""
        trace, shape = self.trace, self.trace.geometry
        index = passes.numpy()
        visits = self.starts[index.ravel()][:, None] + np.arange(shape.layers)
        begin, end = trace.offsets[visits.ravel()], trace.offsets[visits.ravel() + 1]
        rows = np.repeat(np.arange(visits.size), end - begin)
        skipped = begin - np.concatenate([[0], np.cumsum(end - begin)[:-1]])
        demanded = torch.zeros(visits.size, shape.experts)
        demanded[rows, trace.experts[np.arange(len(rows)) + skipped[rows]].astype(np.int64)] = 1
        begins = torch.from_numpy(self.begins[index])
        begins[:, 0] = True  # what was before is not in the window
        decodes = torch.from_numpy(~trace.prefill[self.starts[index]])
        return [Seen(demanded.view(*index.shape, shape.layers, -1), begins, decodes)]


class HistoryTrainer(Trainer):
    """Trains `prefetch=history`: will this pass demand expert i in layer l + d?"""

    reads: ClassVar[str] = "trace"

    def __init__(self, geometry: Geometry, recipe: Recipe, seed: int) -> None:
        torch.manual_seed(seed)
        self.geometry = geometry
        self.about = {"width": recipe.width, "horizon": recipe.horizon}
        self.modules = history_nets(geometry, recipe.width, recipe.horizon)
        super().__init__(recipe, seed)

    @classmethod
    def of(cls, loaded: Any, recipe: Recipe, seed: int) -> Self:
        """Start from nothing, for the geometry of a trace."""
        return cls(loaded.geometry, recipe, seed)

    def past(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Return the pass before and the mean use, both before each pass, as `demanded` is."""
        before, mean = torch.zeros_like(seen.demanded), torch.zeros_like(seen.demanded)
        running = torch.zeros_like(seen.demanded[:, 0])
        for number, demanded in enumerate(seen.demanded.unbind(1)):
            goes_on = ~seen.begins[:, number, None, None]
            running = running * goes_on
            if number:
                before[:, number] = seen.demanded[:, number - 1] * goes_on
            mean[:, number] = running
            running = running + (1 - DECAY) * (demanded - running)
        return before, mean

    def examples(self, seen: Seen) -> list[tuple[Tensor, Tensor]]:
        """Inputs and targets of every layer's network, of decoding passes only [passes, ...]."""
        before, mean = (each[seen.decodes] for each in self.past(seen))
        demanded, found = seen.demanded[seen.decodes], []
        for layer, net in enumerate(self.modules):
            ahead = slice(layer + 1, layer + 1 + net.horizon)
            lower = demanded[:, layer - 1] if layer else torch.zeros_like(demanded[:, 0])
            past = before[:, ahead].flatten(1), mean[:, ahead].flatten(1)
            given = torch.cat([demanded[:, layer], lower, *past], 1)
            found.append((given, demanded[:, ahead].flatten(1)))
        return found

    def learn(self, seen: Sequence[Any], windows: int, progress: float) -> float | None:
        """Learn from all layers together."""
        examples = self.examples(seen[0])
        count = len(examples[0][0])
        if not count:  # a window of prompts only
            return None
        total, steps = 0.0, self.steps(count, int(progress * 1e9))
        for rows in steps:
            loss = torch.zeros(())
            for net, (given, wanted) in zip(self.modules, examples, strict=True):
                logits = net(given[rows])
                loss = loss + functional.binary_cross_entropy_with_logits(logits, wanted[rows])
            total += self.descend(loss / len(self.modules), progress)
        return total / len(steps)

    @torch.no_grad()
    def quality(
        self, kind: str, held_out: Sequence[Any], training: Callable[[int], Any]
    ) -> tuple[list[Row], Tasks]:
        """Recall of the top-k on held-out windows, beside those of the pass before and of use."""
        top_k, experts = self.geometry.top_k, self.geometry.experts
        examples = [self.examples(seen) for (seen,) in held_out]
        rows: list[Row] = []
        tasks: Tasks = {}
        for layer, net in enumerate(self.modules):
            given = torch.cat([each[layer][0] for each in examples])
            wanted = torch.cat([each[layer][1] for each in examples])
            past = given[:, 2 * experts :].chunk(2, 1)
            ways = {kind: net(given), "previous": past[0] + past[1], "popularity": past[1]}
            for number in range(net.horizon if len(given) else 0):
                part = slice(number * experts, (number + 1) * experts)
                true = wanted[:, part]
                row: Row = {"layer": layer + 1 + number, "horizon": number + 1, "named": top_k}
                for name, scores in ways.items():
                    hits = true.gather(1, scores[:, part].topk(top_k).indices).sum()
                    row[f"{name}_recall"] = float(hits / true.sum())
                    task = f"{name}_horizon{number + 1}", f"recall@{top_k}"
                    tasks.setdefault(task, []).append(row[f"{name}_recall"])
                rows.append(row)
        return rows, tasks
