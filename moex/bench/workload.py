"""A workload: prompts, lengths, repeats, sampling; the same for every runner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from moex.bench.sampling import Sampler, greedy
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from moex.bench.sampling import Choose
    from moex.runner.meter import Meter


MOST = 1 << 20
"""Of every length and count: as many tokens as the longest contexts hold."""


@dataclass(kw_only=True)
class Workload(ABC):
    """Prompts, each continued by a fixed number of tokens. Where from: see `prompts.py`.

    Args:
        name: what the result row calls it.
        limit: how many prompts are taken; None takes all.
        prompt_tokens: every prompt is cut to this many tokens (shorter ones are repeated); None
            leaves every prompt as long as it is.
        new_tokens: generated for every prompt; the end-of-text token does not stop it.
        batch_size: prompts run together; of one length, because padding would demand experts that
            no token of a text needs.
        sampling: "greedy", or "sample": random with the run's seed, the same tokens in every round,
            batch and runner.
        temperature: divides the logits before drawing.
        top_p: sample among the likeliest tokens that together have this probability.
        warmup: rounds before measuring; not the pass that records an oracle's future.
        repeats: measured rounds, each from an empty cache; medians are reported.
        cold: empty the cache before every batch, too.
        routing: a trace file, or the name of a bundled one, whose recorded routing overrules the
            model's own routers.

    Raises:
        ValueError: lengths, counts or a way of sampling that make no run.
    """

    name: str = "mine"
    limit: int | None = None
    prompt_tokens: int | None = 32
    new_tokens: int = 32
    batch_size: int = 1
    sampling: str = "greedy"
    temperature: float = 1.0
    top_p: float = 1.0
    warmup: int = 1
    repeats: int = 3
    cold: bool = False
    routing: str | None = None

    def __post_init__(self) -> None:
        least = {"prompt_tokens": 1, "new_tokens": 2, "batch_size": 1, "limit": 1}
        for name, low in {**least, "warmup": 0, "repeats": 1}.items():
            given = getattr(self, name)
            if given is not None and (not isinstance(given, int) or not low <= given <= MOST):
                raise ValueError(
                    f"workload.{name}={given}: expected a number, at least {low}, at most {MOST}"
                )
        if self.prompt_tokens is None and self.batch_size > 1:
            raise ValueError(
                f"workload.batch_size={self.batch_size} with workload.prompt_tokens=null: prompts "
                "of their own lengths run one by one, for padding would demand experts that no "
                "text needs; try workload.batch_size=1, or workload.prompt_tokens=32"
            )
        self.sampler(seed=0)  # bad settings are refused before a model is loaded

    @abstractmethod
    def texts(self) -> Iterable[str]:
        """All prompts, in order."""

    def sampler(self, seed: int) -> Choose:
        """How the next token is chosen."""
        sampler = Sampler(seed, self.temperature, self.top_p)
        if self.sampling == "sample":
            return sampler
        if self.sampling != "greedy":
            raise ValueError(f"workload.sampling={self.sampling}: expected greedy or sample")
        if (self.temperature, self.top_p) != (1.0, 1.0):
            raise ValueError(
                f"workload.temperature={self.temperature} workload.top_p={self.top_p}: expected "
                "1.0 of both, for greedy decoding samples nothing; try workload.sampling=sample"
            )
        return greedy

    def tokenizer(self, load: Callable[[], Any], vocabulary: int) -> Any:
        """Return what makes tokens of the texts.

        Args:
            load: loads the model's own tokenizer.
            vocabulary: number of tokens that the model embeds.
        """
        return load()

    def batches(self, tokenizer: PreTrainedTokenizerBase, device: str) -> list[Tensor]:
        """Token ids [batch, tokens] of every batch.

        Raises:
            ValueError: no prompt, or one without a token.
        """
        rows = [tokenizer(text)["input_ids"] for text in islice(self.texts(), self.limit)]
        if not rows:
            raise ValueError(f"workload={self.name}: no prompt given; expected at least one text")
        if not all(rows):
            number = next(n for n, row in enumerate(rows) if not row)
            raise ValueError(f"workload={self.name}: prompt {number} has no token; expected a text")
        length = self.prompt_tokens
        if length is None:
            return [torch.tensor([row], device=device) for row in rows]
        cut = [(row * (length // len(row) + 1))[:length] for row in rows]
        return list(torch.tensor(cut, device=device).split(self.batch_size))


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    batches: Sequence[Tensor],
    new_tokens: int,
    meter: Meter,
    before_batch: Callable[[], None] | None = None,
    choose: Choose = greedy,
) -> list[list[int]]:
    """Continue every batch; return the new tokens of every prompt."""
    texts: list[list[int]] = []
    for batch in batches:
        if before_batch:
            before_batch()
        meter.start()
        with meter.measure(PREFILL, batch.numel(), sync=True):
            out = model(batch, use_cache=True, logits_to_keep=1)
            token = choose(out.logits[:, -1], len(texts), 0)
        tokens = [token]
        for number in range(1, new_tokens):
            with meter.measure(DECODE, len(batch), sync=number == new_tokens - 1):
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
                token = choose(out.logits[:, -1], len(texts), number)
            tokens.append(token)
        texts.extend(torch.cat(tokens, dim=1).tolist())
    return texts
