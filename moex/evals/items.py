"""Test items: the bundled ones, and such a file made of other text.

An item is a set of choices of which the model should find one likelier than the rest. Four tasks.
`replace`: a sentence against itself with one content word replaced by a random word of like
frequency. `swap`: against itself with two adjacent words swapped. `cloze`: the right word for a
blank among four of like frequency. `grammar`: minimal pairs, the phenomena in turn. All choices are
whole sentences, so none is favoured by how it is cut into context and continuation. `loss` holds
texts instead.

The files hold one JSON object a line, with the `task` that it belongs to.
`experiments/bundled_model/items` made the bundled one, and makes one from held-out text.
"""

import hashlib
import json
import lzma
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from moex.paths import ASSETS

NAME = "items.jsonl.xz"
MAKE = "python experiments/bundled_model/items/make.py --text"


class Item(NamedTuple):
    """Choices and the index of the right one; items of one origin are not independent."""

    choices: tuple[str, ...]
    gold: int
    group: str
    origin: int


def shuffled(choices: list[str], rng: Random, group: str, origin: int) -> Item:
    """An item of choices whose first is right; its index is random, so that a tie earns nothing."""
    order = rng.sample(range(len(choices)), len(choices))
    return Item(tuple(choices[i] for i in order), order.index(0), group, origin)


@cache
def _tasks(path: Path) -> dict[str, list[dict[str, Any]]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no items made of the held-out text at {path}: make them with `{MAKE} {path.parent}`"
        )
    found: dict[str, list[dict[str, Any]]] = {}
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            found.setdefault(item.pop("task"), []).append(item)
    return found


def read_items(task: str, limit: int | None, folder: Path | None = None) -> list[dict[str, Any]]:
    """The first `limit` items of a task, or all: of the bundled file, or of that in a folder.

    Raises:
        FileNotFoundError: the folder has no items.
        ValueError: there are fewer items than asked for.
    """
    found = _tasks((folder or ASSETS) / NAME).get(task, [])
    if limit is not None and limit > len(found):
        raise ValueError(
            f"eval.limit={limit}: {'moex' if folder is None else 'heldout'}_{task} has "
            f"{len(found)} items; try eval.limit={len(found)}"
        )
    return found[:limit]


def checksum(items: Iterable[object]) -> str:
    """16 hex digits that name exactly these items in this order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]
