"""Loads a model's tokenizer, and refuses one that belongs to another model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


def load_tokenizer(folder: Path, model: PreTrainedModel) -> Any:
    """Load the tokenizer in a model's folder.

    Raises:
        ValueError: there is none, or it has tokens without an embedding in the model.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        largest = max(tokenizer.get_vocab().values(), default=-1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(_wrong(folder, "has no tokenizer that transformers can read")) from error
    known = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if not 0 <= largest < known:
        what = f"has a tokenizer with tokens up to {largest}, but the model embeds {known}"
        raise ValueError(_wrong(folder, what))
    return tokenizer


def _wrong(folder: Path, what: str) -> str:
    return f"model: {folder} {what}; expected the model's own tokenizer.json beside config.json"
