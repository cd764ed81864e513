"""The local lm-eval tasks: what they are called, which items they hold, how lm-eval scores them.

Our own (`moex_*`) need nothing, `heldout_*` need a folder of held-out text, `*_local` need a folder
of published items (BLiMP, LAMBADA, HellaSwag, PIQA) and are worded as lm-eval's tasks of these
names, so their numbers compare. Every task but the losses (`moex.evals.loss`) is an inline lm-eval
configuration whose documents are in memory: nothing is downloaded and nothing is written.
"""

import json
import lzma
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from moex.evals.items import Item, read_items, shuffled
from moex.evals.loss import held_out_texts

OWN = {f"moex_{kind}": kind for kind in ("replace", "swap", "cloze", "grammar")}
HELD_OUT = {f"heldout_{kind}": kind for kind in ("replace", "swap", "cloze")}
LOSSES = ("moex_loss", "heldout_loss")
DEFAULT_TEXTS = 1000
Document = dict[str, Any]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no published items at {path}: set eval.data_dir to their folder")
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return lines.read().splitlines()


def _document(item: Item, context: str = "") -> Document:
    return {"context": context, **item._asdict(), "choices": list(item.choices)}


def blimp(folder: Path, rng: Random) -> list[Document]:
    """67 paradigms of 1,000 pairs, the paradigms in turn, so that a limit takes from them all."""
    rows = [json.loads(line) for line in _lines(folder / "blimp/blimp.jsonl.xz")]
    rows.sort(key=lambda row: (int(row["pairID"]), row["UID"]))
    return [
        _document(shuffled([row["sentence_good"], row["sentence_bad"]], rng, row["UID"], i))
        for i, row in enumerate(rows)
    ]


def hellaswag(folder: Path, rng: Random) -> list[Document]:
    """Six lines an item: context, number of the right ending, four endings."""
    lines = _lines(folder / "hellaswag/hellaswag_val_full.txt.xz")
    return [
        _document(Item(tuple(lines[i + 2 : i + 6]), int(lines[i + 1]), "", i), lines[i])
        for i in range(0, len(lines) - 5, 6)
    ]


def piqa(folder: Path, rng: Random) -> list[Document]:
    """A goal and two solutions."""
    rows = [json.loads(line) for line in _lines(folder / "piqa/valid.jsonl.xz")]
    labels = (folder / "piqa/valid-labels.lst").read_text("utf-8").split()
    return [
        _document(
            Item((row["sol1"], row["sol2"]), int(label), "", i),
            f"Question: {row['goal']}\nAnswer:",
        )
        for i, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]


def lambada(folder: Path, rng: Random) -> list[Document]:
    """A passage and its last word."""
    rows = [json.loads(line) for line in _lines(folder / "lambada/lambada_test_openai.jsonl.xz")]
    parts = [row["text"].rpartition(" ") for row in rows]
    return [{"context": context, "target": " " + word} for context, _, word in parts]


PUBLISHED: dict[str, Callable[[Path, Random], list[Document]]] = {
    "blimp_local": blimp,
    "lambada_local": lambada,
    "hellaswag_local": hellaswag,
    "piqa_local": piqa,
}
LOCAL = (*OWN, *HELD_OUT, *PUBLISHED, *LOSSES)


def task_documents(
    name: str, limit: int | None, seed: int, data_dir: Path | None, text_dir: Path | None
) -> list[Document]:
    """The documents of a local task, the first `limit` of them.

    Raises:
        ValueError: the task needs a folder that was not given, or has fewer items.
    """
    if name in OWN:
        return [{"context": "", **item} for item in read_items(OWN[name], limit)]
    if name == "moex_loss":
        return read_items("loss", limit or DEFAULT_TEXTS)
    if name in (*HELD_OUT, "heldout_loss"):
        if text_dir is None:
            own = name.replace("heldout", "moex")
            raise ValueError(
                f"task '{name}' reads held-out text and eval.text_dir is not set: give the folder "
                f"that holds novels/ and wikipedia-articles/, or take '{own}'"
            )
        if name == "heldout_loss":
            return held_out_texts(limit or DEFAULT_TEXTS, text_dir)
        return [{"context": "", **item} for item in read_items(HELD_OUT[name], limit, text_dir)]
    if data_dir is None:
        raise ValueError(
            f"task '{name}' reads published items and eval.data_dir is not set: give the folder "
            f"that holds {name.removesuffix('_local')}/, or take '{name.removesuffix('_local')}' "
            "from the hub"
        )
    return list(islice(PUBLISHED[name](data_dir, Random(seed)), limit))


def task_config(name: str, documents: list[Document]) -> dict[str, Any]:
    """An inline lm-eval task over these documents, all of which it scores."""
    config: dict[str, Any] = {
        "task": name,
        "custom_dataset": partial(_dataset, documents),
        "test_split": "test",
        "doc_to_text": "context",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    accuracy = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
    if name == "lambada_local":
        perplexity = {
            "metric": "perplexity",
            "aggregation": "perplexity",
            "higher_is_better": False,
        }
        return config | {
            "output_type": "loglikelihood",
            "doc_to_target": "target",
            "metric_list": [perplexity, accuracy],
        }
    normalised = {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}
    return config | {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": " " if name in PUBLISHED else "",
        "metric_list": [accuracy, normalised]
        if name in ("hellaswag_local", "piqa_local")
        else [accuracy],
    }


def _dataset(documents: list[Document], **metadata: object) -> dict[str, Any]:
    from datasets import Dataset

    return {"test": Dataset.from_list(documents)}
