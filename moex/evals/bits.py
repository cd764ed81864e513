"""How well a model predicts held-out text, in bits a byte: comparable across tokenizers."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from moex.evals.items import checksum
from moex.evals.stepwise import refuse_single_pass
from moex.evals.text import HELD_OUT, documents, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Window(NamedTuple):
    """Tokens for one forward pass, whose document they are from, and the first one to score."""

    document: int
    tokens: list[int]
    first: int


@dataclass(slots=True)
class Score:
    """What a document cost: nats over its tokens and bytes."""

    source: str
    tokens: int
    bytes: int
    nats: float = 0.0


def bits_per_byte(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    text_dir: str | Path,
    *,
    splits: Iterable[str] = HELD_OUT,
    limit: int | None = None,
    context: int = 512,
    stride: int | None = None,
    batch_size: int = 8,
) -> list[dict[str, Any]]:
    """Score whole held-out documents and return rows like those of `moex.evals.lm.evaluate`.

    Windows of `context` tokens advance by `stride` (half a window by default), so that every token
    is scored once, and with at least `context - stride` tokens before it where the document has
    them. Two rows for all text and for every source of it: `bits_per_byte` (n counts bytes) and
    `nats_per_token` (n counts tokens). The standard error takes documents as the sample.

    Args:
        model: a causal language model, on the device where it is to run.
        tokenizer: its tokenizer; its end-of-text token starts every document.
        text_dir: a folder as `moex.evals.text` describes it.
        splits: which documents.
        limit: at most so many documents of each source; by default all.
        context: tokens a window.
        stride: tokens from one window to the next.
        batch_size: windows in a batch.
    """
    counts = Counter[str]()
    texts = []
    for source, _, text in documents(Path(text_dir), splits):
        if limit is None or counts[source] < limit:
            counts[source] += 1
            texts.append((source, text))
    scores: list[Score] = []

    def windows() -> Iterator[Window]:
        for number, (source, text) in enumerate(tqdm(texts, desc="held-out text", disable=None)):
            tokens = encode(tokenizer, text)
            scores.append(Score(source, len(tokens) - 1, len(text.encode())))
            for part, first in cut(tokens, context, stride or context // 2):
                yield Window(number, part, first)

    stream = windows()
    while batch := list(islice(stream, batch_size)):
        for window, nats in zip(batch, window_nats(model, batch), strict=True):
            scores[window.document].nats += nats
    rows = _rows("heldout_text", scores)
    for name in counts:
        rows += _rows(f"heldout_text/{name}", [score for score in scores if score.source == name])
    digest = checksum(texts)
    return [row | {"checksum": digest} for row in rows]


def cut(tokens: list[int], context: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """Yield windows of `context` inputs and one more token, and where scoring starts in each.

    Every token but the first is scored in exactly one window.
    """
    scored = 1
    for start in range(0, len(tokens), stride):
        window = tokens[start : start + context + 1]
        yield window, scored - start
        scored = start + len(window)
        if scored == len(tokens):
            return


@torch.inference_mode()
def window_nats(model: "PreTrainedModel", batch: list[Window]) -> list[float]:
    """What every window's scored tokens cost; short windows are padded on the right."""
    refuse_single_pass(model)
    length = max(len(window.tokens) for window in batch)
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    targets = torch.full_like(tokens, -100)
    for row, window in enumerate(batch):
        tokens[row, : len(window.tokens)] = torch.tensor(window.tokens)
        targets[row, window.first : len(window.tokens)] = torch.tensor(
            window.tokens[window.first :]
        )
    logits = model(tokens[:, :-1].to(model.device), use_cache=False).logits.float()
    costs = cross_entropy(
        logits.flatten(0, 1), targets[:, 1:].flatten().to(logits.device), reduction="none"
    )
    return costs.view(len(batch), -1).double().sum(1).tolist()


def _rows(task: str, scores: list[Score]) -> list[dict[str, Any]]:
    """The two rows of a set of documents."""
    nats = [score.nats for score in scores]
    bits = [score.nats / math.log(2) for score in scores]
    return [
        _row(task, "bits_per_byte", bits, [score.bytes for score in scores]),
        _row(task, "nats_per_token", nats, [score.tokens for score in scores]),
    ]


def _row(task: str, metric: str, costs: list[float], sizes: list[int]) -> dict[str, Any]:
    """A ratio of sums over documents, its standard error by linearisation."""
    total, documents = sum(sizes), len(sizes)
    value = sum(costs) / total
    stderr = None
    if documents > 1:
        squares = sum((cost - value * size) ** 2 for cost, size in zip(costs, sizes, strict=True))
        stderr = math.sqrt(squares * documents / (documents - 1)) / total
    return {"task": task, "metric": metric, "value": value, "stderr": stderr, "n": total}
