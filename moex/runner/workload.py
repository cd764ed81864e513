"""What is generated from: prompts, lengths, repeats. The same for every runner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from moex.runner.meter import Meter


@dataclass
class Workload:
    """Prompts cut to one length, continued by a fixed number of tokens.

    Args:
        name: what the result row calls it.
        prompts: texts.
        prompt_tokens: every prompt is cut to this many tokens (shorter ones are repeated).
        new_tokens: generated for every prompt; the end-of-text token does not stop it.
        warmup: whole rounds before measuring (they also record the future for oracles).
        repeats: measured rounds, each from an empty cache; medians are reported.
        cold: empty the cache before every prompt, too.
        batch_size: prompts run together.

    Raises:
        ValueError: lengths or counts that make no run.
    """

    name: str = "short"
    prompts: list[str] = field(default_factory=list)
    prompt_tokens: int = 32
    new_tokens: int = 32
    warmup: int = 1
    repeats: int = 3
    cold: bool = False
    batch_size: int = 1

    def __post_init__(self) -> None:
        for name, least in (
            ("prompt_tokens", 1),
            ("new_tokens", 2),
            ("warmup", 0),
            ("repeats", 1),
            ("batch_size", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"workload.{name}={getattr(self, name)}: expected at least {least}"
                )
        if not self.prompts:
            raise ValueError("workload.prompts: no prompt given; expected a list of texts")

    def batches(self, tokenizer: PreTrainedTokenizerBase, device: str) -> list[Tensor]:
        """Token ids [batch, prompt_tokens] of every batch."""
        rows = []
        for prompt in self.prompts:
            ids = tokenizer(prompt)["input_ids"]
            rows.append((ids * (self.prompt_tokens // max(len(ids), 1) + 1))[: self.prompt_tokens])
        ids = torch.tensor(rows, device=device)
        return list(ids.split(self.batch_size))


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    batches: Sequence[Tensor],
    new_tokens: int,
    meter: Meter,
    before_batch: Callable[[], None] | None = None,
) -> list[list[int]]:
    """Continue every batch greedily; return the new tokens of every prompt."""
    texts: list[list[int]] = []
    for batch in batches:
        if before_batch:
            before_batch()
        meter.start()
        with meter.measure(PREFILL, batch.numel(), sync=True):
            out = model(batch, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
        tokens = [token]
        for number in range(new_tokens - 1):
            with meter.measure(DECODE, len(batch), sync=number == new_tokens - 2):
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(token)
        texts.extend(torch.cat(tokens, dim=1).tolist())
    return texts
