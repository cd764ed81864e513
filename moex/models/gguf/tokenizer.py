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


PLAIN = ("default", "gpt-2", "olmo", "mpt", "")
"""Ways of splitting text (`tokenizer.ggml.pre`) that are GPT-2's."""


def write_tokenizer(header: Header, path: Path, folder: Path, name: str) -> None:
    """Write the tokenizer of a file; if there is none that transformers can build, say so.

    Args:
        header: of the model.
        path: the file with the tokenizer's metadata.
        folder: where `tokenizer.json` is written.
        name: what the folder will be called.
    """
    try:
        _build(header, path).save_pretrained(folder)
    except Exception as error:  # whatever transformers' converters raise
        reason = " ".join(str(error).split()) or type(error).__name__
        note(
            f"{path.name}: no tokenizer could be built of its metadata ({reason}); where text is "
            f"read, put the model's own tokenizer.json into gguf/{name} of the cache folder"
        )


def _build(header: Header, path: Path) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    architecture, given, settings = get_gguf_tokenizer(str(path))
    backend = json.loads(convert_gguf_tokenizer(architecture, given)[0].to_str())
    split = given.get("pre_tokenizer_type", "")
    if given["tokenizer_type"] == "gpt2" and split not in (*PLAIN, *GGUF_PRE_TOKENIZER_SPLITS):
        note(
            f"{path.name}: its text is split as {split} does, here as GPT-2 does: tokens may differ"
        )
    # Transformers' own classes add special tokens of other models, which have no embedding.
    vocabulary = header.shape("token_embd.weight")[0]
    backend["added_tokens"] = [t for t in backend["added_tokens"] if t["id"] < vocabulary]
    tokens = Tokenizer.from_str(json.dumps(backend))
    ids = {
        f"{name}_token": header.metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in SPECIAL.items()
    }
    special = {name: tokens.id_to_token(at) for name, at in ids.items() if at is not None}
    if settings.get("add_bos_token") and special.get("bos_token"):
        start = special["bos_token"]
        tokens.post_processor = TemplateProcessing(
            f"{start}:0 $A:0", f"{start}:0 $A:0 $B:0", [(start, ids["bos_token"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, chat_template=settings.get("chat_template"), **special
    )
