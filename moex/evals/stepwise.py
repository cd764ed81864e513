"""Feeds a text to a model token by token, so that it is scored as it would be decoded.

Scoring is prefill, where misses are never skipped; what a lossy way of handling misses costs can
only be seen in the passes of single tokens that decoding makes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from transformers import PreTrainedModel


@contextmanager
def stepwise(
    model: PreTrainedModel, before_text: Callable[[], None] | None = None
) -> Iterator[None]:
    """Let `model(ids)` [1, tokens] make one pass a token while the context is open.

    Args:
        model: called with one text at a time, without a cache of its own.
        before_text: called before every text, e.g. to start it with empty slots.
    """
    whole = model.__call__

    def step(input_ids: Tensor, **_: Any) -> Any:
        if len(input_ids) != 1:
            raise ValueError(f"{len(input_ids)} texts at once: expected one; try eval.batch_size=1")
        if before_text is not None:
            before_text()
        past, logits = None, []
        for token in input_ids.split(1, dim=1):
            out = whole(token, past_key_values=past, use_cache=True)
            past = out.past_key_values
            logits.append(out.logits)
        out.logits = torch.cat(logits, dim=1)
        return out

    kind = type(model)
    model.__class__ = type(kind.__name__, (kind,), {"__call__": lambda _, *a, **k: step(*a, **k)})
    try:
        yield
    finally:
        model.__class__ = kind
