"""Loss on short texts, in nats/token: a finer measure than accuracy on as many texts.

Texts are variants of our own sentences, each for itself, or the beginnings of documents held out
from training, kinds of text in turn. Our sentences support no claim: they all begin in the same
context, so their errors, computed as if sentences were independent, are too small.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.evals.items import checksum
from moex.evals.text import HELD_OUT, documents, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METRIC, ABOVE, KL = "nats_per_token", "nats_above_dense", "kl_per_token"
"""Loss; its difference from the dense model's, paired by text; divergence from the dense model."""
TOKENS = 512
"""Of a text at most so many are scored."""
BATCH = 8
"""Texts at once: logits of long ones fill memory."""


def held_out_texts(number: int, folder: Path) -> list[dict[str, Any]]:
    """The beginnings of the first `number` held-out documents, kinds of text in turn."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for kind, _, text in documents(folder, HELD_OUT):
        kinds.setdefault(kind, []).append((kind, text[: 20 * TOKENS]))
    turns = (each for each in chain.from_iterable(zip_longest(*kinds.values())) if each)
    chosen = enumerate(islice(turns, number))
    return [{"text": text, "origin": n, "group": kind} for n, (kind, text) in chosen]


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

    pieces = encoded(tokenizer, texts)
    costs: list[float] = []
    for at in range(0, len(pieces), size := min(batch_size, BATCH)):
        costs += window_nats(model, [Window(at, piece, 1) for piece in pieces[at : at + size]])
    return _per_token(texts, pieces, costs)


def encoded(tokenizer: "PreTrainedTokenizerBase", texts: list[dict[str, Any]]) -> list[list[int]]:
    """The tokens of every text, as many as are scored and one before them."""
    return [encode(tokenizer, text["text"])[: TOKENS + 1] for text in texts]


def _per_token(
    texts: list[dict[str, Any]], pieces: list[list[int]], costs: list[float]
) -> list[tuple[int, float]]:
    mean = sum(len(piece) - 1 for piece in pieces) / len(pieces)
    return [(text["origin"], cost / mean) for text, cost in zip(texts, costs, strict=True)]


def beside_dense(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[dict[str, Any]],
    dense: Callable[[Any], Any],
) -> dict[str, list[tuple[int, float]]]:
    """Return of every metric what `nats_per_token` returns.

    Args:
        model: makes one pass a token.
        tokenizer: its tokenizer.
        texts: one after the other.
        dense: returns logits [tokens, vocabulary] of the model that is the dense one.
    """
    import torch

    pieces = encoded(tokenizer, texts)
    nats, above, apart = [], [], []
    for piece in pieces:
        ids = torch.tensor([piece], device=model.device)
        theirs = dense(ids[:, :-1]).double().log_softmax(-1)
        with torch.inference_mode():
            ours = model(ids[:, :-1]).logits[0].double().log_softmax(-1)
        found = ids[0, 1:, None]
        nats.append(-float(ours.gather(1, found).sum()))
        above.append(float((theirs - ours).gather(1, found).sum()))
        apart.append(float((theirs.exp() * (theirs - ours)).sum()))
    costs = {METRIC: nats, ABOVE: above, KL: apart}
    return {name: _per_token(texts, pieces, each) for name, each in costs.items()}


def text_scores(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[dict[str, Any]],
    batch_size: int,
    dense: Callable[[Any], Any] | None,
) -> dict[str, list[tuple[int, float]]]:
    """Return by metric what `nats_per_token` returns; divergence only from a dense model."""
    if dense is not None:
        return beside_dense(model, tokenizer, texts, dense)
    return {METRIC: nats_per_token(model, tokenizer, texts, batch_size)}


def loss_rows(
    name: str,
    texts: list[dict[str, Any]],
    scores: dict[str, list[tuple[int, float]]],
    tokenizer: "PreTrainedTokenizerBase",
) -> list[dict[str, Any]]:
    """Rows of a loss, a metric each, of all texts and then of every kind of them."""
    digest = checksum({key: text[key] for key in ("text", "origin")} for text in texts)
    rows = []
    for metric, scored in scores.items():
        groups = {name: scored}
        groups |= {f"{name}/{kind}": each for kind, each in _kinds(texts, tokenizer, scored)}
        for part, each in groups.items():
            value, stderr = mean_and_stderr([n for _, n in each], [origin for origin, _ in each])
            row = {"task": part, "metric": metric, "value": value, "stderr": stderr}
            rows.append(row | {"n": len(each), "checksum": digest})
    return rows


def mean_and_stderr(values: list[float], origins: list[int]) -> tuple[float, float | None]:
    """A mean and its standard error when values of one origin (one sentence) are not independent.

    With every value of its own origin this is the ordinary standard error of a mean.
    """
    mean = sum(values) / len(values)
    sums: dict[int, float] = defaultdict(float)
    for value, origin in zip(values, origins, strict=True):
        sums[origin] += value - mean
    groups = len(sums)
    if groups < 2:
        return mean, None
    squares = sum(total**2 for total in sums.values())
    return mean, math.sqrt(squares * groups / (groups - 1)) / len(values)


def _kinds(
    texts: list[dict[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    scored: list[tuple[int, float]],
) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Yield the scores of every kind of text, over the mean number of tokens of its own texts."""
    kinds = [text.get("group", "") for text in texts]
    if len({*kinds}) < 2:
        return
    lengths = [len(piece) - 1 for piece in encoded(tokenizer, texts)]
    for kind in dict.fromkeys(kinds):
        mine = [number for number, each in enumerate(kinds) if each == kind]
        mean = sum(lengths[number] for number in mine) / len(mine)
        scale = sum(lengths) / len(texts) / mean
        yield kind, [(scored[number][0], scored[number][1] * scale) for number in mine]
