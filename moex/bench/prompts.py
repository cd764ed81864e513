"""Sources of prompts: the configuration, a jsonl file, a data set of the hub, random tokens."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.bench.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(kw_only=True)
class Prompts(Workload):
    """Prompts given in the configuration."""

    prompts: list[str] = dataclasses.field(default_factory=list)

    def texts(self) -> Iterator[str]:
        """All prompts, in order."""
        yield from self.prompts


@dataclass(kw_only=True)
class Jsonl(Workload):
    """A text from every line of a file of JSON objects.

    Args:
        path: the file.
        field: the key that holds the text; dots lead into objects ("conversation.prompt").

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no JSON object with that text.
    """

    path: str
    field: str = "prompt"

    def texts(self) -> Iterator[str]:
        """All prompts, in order; empty lines are passed over."""
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f'workload.path={self.path}: no such file; expected lines like {{"prompt": "..."}}'
            )
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    where = f"workload.path={self.path}, line {number}"
                    raise ValueError(f"{where}: not JSON ({error})") from error
                yield _text(row, self.field, f"workload.path={self.path}, line {number}")


@dataclass(kw_only=True)
class Hub(Workload):
    """A column of a data set that `datasets` loads: of the hub, of its cache, or a local folder.

    Args:
        dataset: name on the hub, or a folder of data files.
        subset: the data set's configuration, where it has several.
        files: the data set's file or files, where it names none itself.
        split: which part of it.
        revision: commit or tag on the hub.
        field: the column that holds the text; dots lead into structures, numbers into lists.
        where: take rows that have these values in these columns; dots as in `field`.
        at_least: characters of a text; rows with fewer, white space apart, are passed over.

    Raises:
        RuntimeError: it cannot be had, which offline means: it is not in the cache.
        ValueError: it has no such column, or no row is left.
    """

    dataset: str
    subset: str | None = None
    files: str | None = None
    split: str = "train"
    revision: str | None = None
    field: str = "text"
    where: dict[str, Any] = dataclasses.field(default_factory=dict)
    at_least: int = 0

    def texts(self) -> Iterator[str]:
        """The chosen rows' texts, in the data set's order."""
        from datasets import load_dataset

        name = f"workload.dataset={self.dataset}"
        try:
            given = {"data_files": self.files, "split": self.split, "revision": self.revision}
            rows = load_dataset(self.dataset, self.subset, **given)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise RuntimeError(
                f"{name}: cannot be loaded ({reason}); offline, it must be in the cache of "
                "`datasets`: run once with a network, or try workload=short or workload=jsonl"
            ) from error
        lacking = [key for key in self.where if key.partition(".")[0] not in rows.column_names]
        if lacking:
            raise ValueError(
                f"{name}: no column {lacking[0]} for workload.where; expected one of "
                f"{', '.join(rows.column_names)}"
            )
        for row in rows:
            if all(_inside(row, key) == value for key, value in self.where.items()):
                text = _text(row, self.field, name)
                if len(text.strip()) >= self.at_least:
                    yield text


def _inside(row: Any, name: str) -> Any:
    """Return what a dotted name leads to, None if nothing; numbers count a list's entries."""
    value = row
    for key in name.split("."):
        if isinstance(value, list) and key.isdecimal():
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value


@dataclass(kw_only=True)
class Random(Workload):
    """Tokens drawn uniformly at random, the same in every run: needs no tokenizer."""

    limit: int | None = 8

    def texts(self) -> Iterator[str]:
        """A number a prompt, from which `tokenizer` draws its tokens."""
        yield from map(str, range(self.limit or 8))

    def tokenizer(self, load: Callable[[], Any], vocabulary: int) -> Any:
        """A substitute for the model's, which is not loaded."""
        length = self.prompt_tokens or 32

        def tokens(text: str) -> dict[str, list[int]]:
            draw = random.Random(text)
            return {"input_ids": [draw.randrange(vocabulary) for _ in range(length)]}

        return tokens


def _text(row: Any, name: str, where: str) -> str:
    value = _inside(row, name)
    if not isinstance(value, str):
        known = ", ".join(row) if isinstance(row, dict) else "no JSON object"
        raise ValueError(f"{where}: no text in {name}; expected workload.field= one of {known}")
    return value
