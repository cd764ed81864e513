"""Held-out text: documents of a folder, normalised, encoded for the model.

A folder holds `novels/novels.jsonl.xz` and `wikipedia-articles/articles.jsonl.xz`, one JSON object
per line with `text` and `split`; complete novels and articles are held out. The script that
trained the bundled model reads its text through this module, so evaluation sees the same text.
"""

import json
import lzma
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SOURCES = {"novels": "novels/novels.jsonl.xz", "articles": "wikipedia-articles/articles.jsonl.xz"}
HELD_OUT = ("valid", "test")
PIECE = re.compile(r".{1,20000}(?:\n\n|\Z)|.{1,40000}", re.S)


def normalise(text: str) -> str:
    """Join hard-wrapped lines inside a paragraph, so that all sources look alike."""
    text = re.sub(r"[ \t]+", " ", text.replace("\r\n", "\n"))
    text = re.sub(r" ?\n ?", "\n", text)
    text = re.sub(r"(?<![\n=])\n(?![\n=*#:;])", " ", text)
    return re.sub(r"\n{2,}", "\n\n", text).strip()


def documents(folder: Path, splits: Iterable[str] | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield (source, split, text) of every document that has text, of these splits or of all."""
    wanted = None if splits is None else set(splits)
    for source, path in SOURCES.items():
        if not (folder / path).is_file():
            raise FileNotFoundError(
                f"no held-out text at {folder / path}: give a folder that holds "
                f"{' and '.join(SOURCES.values())}"
            )
        with lzma.open(folder / path, "rt", encoding="utf-8") as lines:
            for line in lines:
                document = json.loads(line)
                if wanted is None or document["split"] in wanted:
                    text = normalise(document["text"])
                    if text:
                        yield source, document["split"], text


def pieces(text: str) -> list[str]:
    """Cut a document at paragraphs: encoding megabytes in one call is slow and uses much memory."""
    return PIECE.findall(text)


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """A document as the model was trained on it: the end-of-text token, then its pieces."""
    encoded = tokenizer(pieces(text), add_special_tokens=False)["input_ids"]
    return [tokenizer.eos_token_id, *(token for piece in encoded for token in piece)]
