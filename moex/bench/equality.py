"""How equal a model is to stock transformers: bit by bit, token by token, or how far off."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import torch

from moex.bench.workload import generate
from moex.runner.meter import Meter
from moex.runs.sections import Equality

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from moex.bench.sampling import Choose

BITS, TOKENS, APPROXIMATE = "bit-equal", "token-equal", "approximate"


class Pass(NamedTuple):
    """The outcome of a forward pass.

    `logits` [batch, vocabulary] of the next token are on the CPU as they were computed; `hidden`
    are digests, of the embedding and of every decoder layer's output; `token` [batch, 1] was
    chosen. So little is kept that the two models need not be in memory together.
    """

    logits: Tensor
    hidden: tuple[bytes, ...]
    token: Tensor


def observe(
    model: PreTrainedModel, batches: Sequence[Tensor], new_tokens: int, choose: Choose
) -> list[list[Pass]]:
    """Let stock continue every batch; return its passes, a list a batch."""
    seen: list[list[Pass]] = []
    prompts = 0
    for batch in batches:

        def mine(logits: Tensor, number: int, first: int = prompts) -> Tensor:
            return choose(logits, first, number)

        seen.append(list(_continue(model, batch, new_tokens, mine)))
        prompts += len(batch)
    return seen


def compare(
    model: PreTrainedModel,
    batches: Sequence[Tensor],
    stock: list[list[Pass]],
    choose: Choose,
    begin: Callable[[], None] | None = None,
) -> Equality:
    """Grade a model: for logits it is fed stock's tokens, for texts it continues its own.

    `begin` is called before either, where a model has a state (an empty cache) to begin with.
    """
    begin = begin or (lambda: None)
    begin()
    same, largest, layer = True, 0.0, None
    divergences: list[Tensor] = []
    for batch, passes in zip(batches, stock, strict=True):

        def given(_: Tensor, number: int, passes: list[Pass] = passes) -> Tensor:
            return passes[number].token

        for ours, theirs in zip(_continue(model, batch, len(passes), given), passes, strict=True):
            same = same and _bits(ours.logits) == _bits(theirs.logits)
            largest = max(largest, _distance(ours.logits, theirs.logits))
            divergences.append(_divergence(theirs.logits, ours.logits))
            layer = _first_difference(ours.hidden, theirs.hidden) if layer is None else layer
    begin()
    texts = generate(model, batches, len(stock[0]), Meter(), choose=choose)
    expected = [torch.cat([done.token for done in passes], dim=1).tolist() for passes in stock]
    pairs = zip(texts, (text for batch in expected for text in batch), strict=True)
    tokens = [number for pair in pairs if (number := _first_difference(*pair)) is not None]
    grade = APPROXIMATE if tokens else BITS if same and layer is None else TOKENS
    return Equality(
        grade,
        largest,
        float(torch.cat(divergences).mean()),
        min(tokens, default=None),
        None if layer is None else layer - 1,
    )


@torch.inference_mode()
def _continue(
    model: PreTrainedModel, batch: Tensor, new_tokens: int, choose: Callable[[Tensor, int], Tensor]
) -> Iterator[Pass]:
    fed, past = batch, None
    for number in range(new_tokens):
        out = model(
            fed, past_key_values=past, use_cache=True, logits_to_keep=1, output_hidden_states=True
        )
        logits, past = out.logits[:, -1], out.past_key_values
        fed = choose(logits, number)
        hidden = tuple(blake2b(_bits(state)).digest() for state in out.hidden_states)
        yield Pass(logits.cpu(), hidden, fed)


def _bits(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two logits.

    Raises:
        ValueError: a logit is nan or infinite: neither equal to anything, nor far from it.
    """
    for whose, logits in (("stock transformers", theirs), ("moex", ours)):
        if not logits.isfinite().all():
            raise ValueError(
                f"mode=verify: the logits of {whose} hold nan or an infinity; expected finite "
                "numbers; try model.dtype=float32"
            )
    return float((ours - theirs).abs().max())


def _divergence(theirs: Tensor, ours: Tensor) -> Tensor:
    """Kullback-Leibler divergence of every row, in nats."""
    theirs, ours = theirs.double().log_softmax(-1), ours.double().log_softmax(-1)
    return (theirs.exp() * (theirs - ours)).sum(-1)


def _first_difference(ours: Sequence[object], theirs: Sequence[object]) -> int | None:
    pairs = enumerate(zip(ours, theirs, strict=True))
    return next((number for number, (a, b) in pairs if a != b), None)
