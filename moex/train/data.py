"""Text for training: documents become one file of tokens, and that is read in windows.

Text may be a file or a folder of files: `.txt` and `.md` (a document each), `.jsonl` and
`.jsonl.xz` (one object a line with `text`; lines whose `split` is not "train" are left out), or
`.bin` (uint16 tokens, documents beginning with the end-of-text token, beside the tokenizer.json
that made them).
"""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.runs.atomic import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

TEXTS = (".txt", ".md", ".jsonl", ".xz")
HELD_OUT_EVERY = 20
LEAST_TOKENS = 20_000
PIECE = 100_000


@dataclass
class Corpus:
    """Documents as tokens: every twentieth is held out, the others are read in windows.

    Args:
        tokens: all of them, documents one after the other.
        starts: where documents begin.
        context: tokens a window; no window leaves its document.
        source: what the tokens are of, for provenance.
        seed: of the order of windows.
    """

    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    context: int
    source: str
    seed: int = 0

    def __post_init__(self) -> None:
        ends = np.append(self.starts[1:], len(self.tokens))
        held = np.arange(len(self.starts)) % HELD_OUT_EVERY == min(1, len(self.starts) - 1)
        self.windows = {True: self._cut(held, ends), False: self._cut(~held, ends)}
        self.count = len(self.windows[False]) * self.context
        if len(self.starts) < 2 or self.count < LEAST_TOKENS or not len(self.windows[True]):
            raise ValueError(
                f"train.text={self.source}: {len(self.starts)} documents with {self.count} tokens "
                f"in whole windows of {self.context}; expected at least 2 documents and "
                f"{LEAST_TOKENS} tokens to train on (some 100 kB), and one window to validate on"
            )
        draw = np.random.default_rng(self.seed)
        for windows in self.windows.values():
            draw.shuffle(windows)

    def _cut(self, wanted: NDArray[np.bool_], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        spans = [
            np.arange(start, end - self.context + 1, self.context)
            for start, end in zip(self.starts[wanted], ends[wanted], strict=True)
        ]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    def batch(self, number: int, size: int, held_out: bool = False) -> NDArray[np.int64]:
        """Windows [size, context] of batch `number`; after the last comes the first again."""
        windows = self.windows[held_out]
        starts = windows[np.arange(number * size, (number + 1) * size) % len(windows)]
        return self.tokens[starts[:, None] + np.arange(self.context)].astype(np.int64)


def corpus(
    text: str | None, tokenizer: Any, work: Path, context: int, most: int, seed: int
) -> Corpus:
    """Make a corpus of what the user named; at most `most` tokens of text are encoded.

    Args:
        text: a file or folder.
        tokenizer: the model's.
        work: a folder where encoded text is kept, for a run that is taken up again.
        context: tokens a window.
        most: tokens; documents after them are not read.
        seed: of the order of windows.

    Raises:
        FileNotFoundError: no such file, or none that can be read as text.
        ValueError: too little text, or tokens of another tokenizer.
    """
    if not text:
        raise ValueError(
            "train.text=null: expected text to train on; try train.text=FILE_OR_FOLDER with "
            ".txt, .md, .jsonl, .jsonl.xz or .bin files"
        )
    path = Path(text).expanduser()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in TEXTS)
    if not files:
        raise FileNotFoundError(
            f"train.text={text}: no text there; expected a file or a folder with .txt, .md, "
            ".jsonl, .jsonl.xz or .bin files"
        )
    end = tokenizer.eos_token_id
    if path.suffix == ".bin":
        _check_tokenizer(path, tokenizer)
        tokens: NDArray[Any] = np.memmap(path, np.uint16, "r")
    else:
        tokens = _encoded(files, tokenizer, work / "tokens.bin", most)
    starts = np.flatnonzero(tokens == end).astype(np.int64)
    if not len(starts) or starts[0]:
        starts = np.insert(starts, 0, 0)
    return Corpus(tokens, starts, context, path.name, seed)


def documents(files: list[Path]) -> Iterator[str]:
    """Yield the documents of text files."""
    for path in files:
        if path.suffix in (".txt", ".md"):
            yield path.read_text(encoding="utf-8", errors="replace")
            continue
        opened = lzma.open if path.suffix == ".xz" else open
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    document = json.loads(line)
                    text = document["text"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f'train.text={path}: line {number} is no {{"text": "..."}}; expected one '
                        "such object a line"
                    ) from error
                if document.get("split", "train") == "train":
                    yield text


def _encoded(files: list[Path], tokenizer: Any, path: Path, most: int) -> NDArray[Any]:
    """Encode documents to a file, piece by piece, unless an earlier run has done so."""
    if not path.is_file():
        count = 0
        with atomic_write(path) as partial, partial.open("wb") as file:
            for text in documents(files):
                pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
                encoded = tokenizer(pieces, add_special_tokens=False)["input_ids"]
                ids = [tokenizer.eos_token_id, *(i for piece in encoded for i in piece)]
                np.asarray(ids, np.uint32).tofile(file)
                count += len(ids)
                if count >= most:
                    break
    return np.fromfile(path, np.uint32)


def vocabulary(folder: Path) -> str:
    """A digest of what a tokenizer.json makes of text; its settings and special tokens aside."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    text = json.dumps([model.get("vocab"), model.get("merges")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _check_tokenizer(path: Path, tokenizer: Any) -> None:
    ours = Path(tokenizer.name_or_path)
    if not (path.parent / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"train.text={path}: no tokenizer.json in its folder, so its vocabulary is unknown; "
            "expected the one that made these tokens, or text"
        )
    if vocabulary(path.parent) != vocabulary(ours):
        raise ValueError(
            f"train.text={path}: tokens of another tokenizer ({vocabulary(path.parent)}) than the "
            f"model's ({vocabulary(ours)}); expected tokens of {ours.name}, or text"
        )
