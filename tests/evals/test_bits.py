import json
import lzma
import math

import pytest
import torch

from moex.evals.bits import bits_per_byte, cut
from moex.evals.text import documents, encode, normalise

NOVELS = {
    "train": "Never read this.",
    "valid": "It was a dark night.\nThe rain\nfell.\n\nNobody came, and nobody was sent for.",
    "test": "A short one.",
}


@pytest.fixture
def text_dir(tmp_path):
    articles = {"test": "== Rivers ==\nThe Wye is a river."}
    for name, rows in (
        ("novels/novels", NOVELS),
        ("wikipedia-articles/articles", articles),
    ):
        path = tmp_path / f"{name}.jsonl.xz"
        path.parent.mkdir()
        with lzma.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"split": k, "text": v}) + "\n" for k, v in rows.items())
    return tmp_path


def test_lines_of_a_paragraph_are_joined_and_headings_kept():
    assert normalise("One\r\ntwo  three\n\n\nFour\n== Five ==\nsix\n") == (
        "One two three\n\nFour\n== Five ==\nsix"
    )


def test_only_the_wanted_splits_are_read(text_dir):
    assert [(s, split) for s, split, _ in documents(text_dir, ["test"])] == [
        ("novels", "test"),
        ("articles", "test"),
    ]


@pytest.mark.parametrize("length", [2, 5, 8, 9, 10, 13, 14, 40])
def test_every_token_but_the_first_is_scored_once(length):
    tokens = list(range(length))
    windows = list(cut(tokens, context=8, stride=4))
    assert [t for window, first in windows for t in window[first:]] == tokens[1:]
    assert all(len(window) <= 9 for window, _ in windows)
    assert all(first >= 5 for _, first in windows[1:])


def test_bits_are_those_of_the_whole_document_when_it_fits_a_window(model, tokenizer, text_dir):
    rows = bits_per_byte(model, tokenizer, text_dir, splits=["test"], batch_size=2)
    found = {(row["task"], row["metric"]): row for row in rows}
    nats = sizes = 0
    for _, _, text in documents(text_dir, ["test"]):
        tokens = torch.tensor([encode(tokenizer, text)])
        with torch.inference_mode():
            nats += model(tokens, labels=tokens).loss.item() * (tokens.numel() - 1)
        sizes += len(text.encode())
    row = found["heldout_text", "bits_per_byte"]
    assert row["value"] == pytest.approx(nats / math.log(2) / sizes, rel=1e-5)
    assert row["n"] == sizes
    assert row["stderr"] > 0
    assert found["heldout_text/novels", "nats_per_token"]["stderr"] is None


def test_batching_and_stride_leave_the_number_of_scored_tokens_alone(model, tokenizer, text_dir):
    one = bits_per_byte(model, tokenizer, text_dir, context=16, stride=8, batch_size=1)
    many = bits_per_byte(model, tokenizer, text_dir, context=16, stride=8, batch_size=5)
    assert [row["n"] for row in one] == [row["n"] for row in many]
    assert [row["value"] for row in one] == pytest.approx([row["value"] for row in many], rel=1e-5)
    wide = bits_per_byte(model, tokenizer, text_dir, context=64)
    assert [row["n"] for row in wide] == [row["n"] for row in one]


def test_a_limit_takes_whole_documents_of_every_source(model, tokenizer, text_dir):
    rows = bits_per_byte(model, tokenizer, text_dir, limit=1)
    size = {row["task"]: row["n"] for row in rows if row["metric"] == "bits_per_byte"}
    assert size["heldout_text/novels"] == len(normalise(NOVELS["valid"]).encode())
    assert set(size) == {"heldout_text", "heldout_text/novels", "heldout_text/articles"}
