"""Feeds a text to a model token by token, so that it is scored as it would be decoded.

A pass over a whole text is prefill, which fetches every expert that it demands; what a method costs
that depends on residency can only be seen in the passes of single tokens that decoding makes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from transformers import PreTrainedModel


class Stepwise:
    """Marks a model that makes one pass a token."""


@contextmanager
def stepwise(
    model: PreTrainedModel, before_text: Callable[[], None] | None = None
) -> Iterator[None]:
    """Let `model(ids)` [1, tokens] make one pass a token while the context is open.

    Also with a KV cache, as `generate` calls it; masks and positions are those of one text without
    padding.

    Args:
        model: called with one text at a time.
        before_text: called before every text, e.g. to start it with empty slots.
    """
    whole = model.__call__

    def step(input_ids: Tensor, past_key_values: Any = None, **_: Any) -> Any:
        if len(input_ids) != 1:
            raise ValueError(f"{len(input_ids)} texts at once: expected one; try eval.batch_size=1")
        past, logits = past_key_values, []
        if before_text is not None and (past is None or not past.get_seq_length()):
            before_text()
        for token in input_ids.split(1, dim=1):
            out = whole(token, past_key_values=past, use_cache=True)
            past = out.past_key_values
            logits.append(out.logits)
        out.logits = torch.cat(logits, dim=1)
        return out

    kind = type(model)
    calls = {"__call__": lambda _, *a, **k: step(*a, **k)}
    model.__class__ = type(kind.__name__, (Stepwise, kind), calls)
    try:
        yield
    finally:
        model.__class__ = kind


def refuse_single_pass(model: PreTrainedModel) -> None:
    """Refuse to score in single passes where logits depend on residency.

    Raises:
        ValueError: the model is offloaded so, and does not make one pass a token.
    """
    calls = (vars(module)["moex"] for module in model.modules() if "moex" in vars(module))
    call = next(calls, None)
    if isinstance(model, Stepwise) or call is None:
        return
    if call.func.__self__.residency_dependent:
        raise ValueError(
            "model: its routing or its miss handler depends on what is resident, and one pass over "
            "a text fetches every expert, so that it would score as lossless; expected token by "
            "token; try eval.stepwise=auto, in Python `with moex.evals.stepwise.stepwise(model)`"
        )
