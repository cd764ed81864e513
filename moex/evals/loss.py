"""Loss on short texts, in nats/token: a finer measure than accuracy on as many texts.

Texts are variants of our own sentences, each for itself, or the beginnings of documents held out
from training, kinds of text in turn. Our sentences support no claim: they all begin in the same
context, so their errors, computed as if sentences were independent, are too small.
"""

from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.evals.text import HELD_OUT, documents, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METRIC = "nats_per_token"
TOKENS = 512
"""Of a text at most so many are scored."""
BATCH = 8
"""Texts at once: logits of long ones fill memory."""


def held_out_texts(number: int, folder: Path) -> list[dict[str, Any]]:
    """The beginnings of the first `number` held-out documents, kinds of text in turn."""
    kinds: dict[str, list[str]] = {}
    for kind, _, text in documents(folder, HELD_OUT):
        kinds.setdefault(kind, []).append(text[: 20 * TOKENS])
    turns = (text for text in chain.from_iterable(zip_longest(*kinds.values())) if text)
    return [{"text": text, "origin": n} for n, text in enumerate(islice(turns, number))]


def nats_per_token(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[dict[str, Any]],
    batch_size: int,
) -> list[tuple[int, float]]:
    """Return of every text its origin and its nats over the mean number of tokens of a text.

    The mean of these is nats/token of all texts together. The end-of-text token comes before a
    text's first one.
    """
    from moex.evals.bits import Window, window_nats  # torch, which texts do not need

    pieces = [encode(tokenizer, text["text"])[: TOKENS + 1] for text in texts]
    costs: list[float] = []
    for at in range(0, len(pieces), size := min(batch_size, BATCH)):
        costs += window_nats(model, [Window(at, piece, 1) for piece in pieces[at : at + size]])
    mean = sum(len(piece) - 1 for piece in pieces) / len(pieces)
    return [(text["origin"], cost / mean) for text, cost in zip(texts, costs, strict=True)]
