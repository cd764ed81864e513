"""The tokenizer that a GGUF file's metadata describes, built by transformers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moex.runs.notes import note

if TYPE_CHECKING:
    from pathlib import Path

    from moex.models.gguf.header import Header

SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Special tokens, as transformers and as llama.cpp call them."""


def write_tokenizer(header: Header, path: Path, folder: Path) -> None:
    """Write the tokenizer of a file; if there is none that transformers can build, say so.

    Args:
        header: of the model.
        path: the file with the tokenizer's metadata.
        folder: where `tokenizer.json` is written.
    """
    try:
        _build(header, path).save_pretrained(folder)
    except Exception as error:  # whatever transformers' converters raise
        reason = " ".join(str(error).split()) or type(error).__name__
        note(
            f"{path.name}: no tokenizer could be built of its metadata ({reason}); where text is "
            f"read, put the model's own tokenizer.json into {folder.name} of the cache folder"
        )


def _build(header: Header, path: Path) -> Any:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    built = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    backend = json.loads(built.backend_tokenizer.to_str())
    # Transformers' own classes add special tokens of other models, which have no embedding.
    vocabulary = header.shape("token_embd.weight")[0]
    backend["added_tokens"] = [t for t in backend["added_tokens"] if t["id"] < vocabulary]
    tokens = Tokenizer.from_str(json.dumps(backend))
    ids = {
        f"{name}_token": header.metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in SPECIAL.items()
    }
    special = {name: tokens.id_to_token(at) for name, at in ids.items() if at is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, chat_template=built.chat_template, **special
    )
