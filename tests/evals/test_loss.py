"""Loss on short texts: nats a token, text by text."""

from __future__ import annotations

import json
import lzma

import pytest
import torch

from moex.evals.items import read_items
from moex.evals.lm import evaluate
from moex.evals.loss import TOKENS, held_out_texts, nats_per_token
from moex.evals.paired import differences


def test_nats_are_those_of_every_text_alone(model, tokenizer):
    texts = read_items("loss", 12)
    items: dict = {}
    [row] = evaluate(model, tokenizer, ["moex_loss"], limit=12, items=items)
    nats = tokens = 0
    for text in texts:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text["text"])["input_ids"]]])
        with torch.inference_mode():
            nats += model(ids, labels=ids).loss.item() * (ids.numel() - 1)
        tokens += ids.numel() - 1
    assert row["value"] == pytest.approx(nats / tokens, rel=1e-5)
    assert (row["task"], row["metric"], row["n"]) == ("moex_loss", "nats_per_token", 12)
    scored = items["moex_loss"]["nats_per_token"]
    assert [origin for origin, _ in scored] == [text["origin"] for text in texts]
    worse = {"moex_loss": {"nats_per_token": [(n, nats + 0.5) for n, nats in scored]}}
    [apart] = differences(worse, items)
    assert apart["difference"] == pytest.approx(0.5)


def test_losses_stand_beside_tasks_and_batches_change_nothing(model, tokenizer):
    rows = evaluate(model, tokenizer, ["moex_swap", "moex_loss"], limit=4)
    assert {row["task"] for row in rows} == {"moex_swap", "moex_loss"}
    texts = read_items("loss", 10)
    one, many = (nats_per_token(model, tokenizer, texts, size) for size in (1, 8))
    assert [nats for _, nats in one] == pytest.approx([nats for _, nats in many], rel=1e-5)


def test_held_out_documents_are_cut_and_their_kinds_take_turns(model, tokenizer, tmp_path):
    for source in ("novels/novels", "wikipedia-articles/articles"):
        path = tmp_path / f"{source}.jsonl.xz"
        path.parent.mkdir()
        rows = [{"split": split, "text": f"{source} {split} " * 900} for split in ("train", "test")]
        with lzma.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    texts = held_out_texts(10, tmp_path)
    assert [text["text"].split("/")[0] for text in texts] == ["novels", "wikipedia-articles"]
    assert all("train" not in text["text"] for text in texts)
    row, *kinds = evaluate(model, tokenizer, ["heldout_loss"], limit=2, text_dir=tmp_path)
    assert row["n"] == 2
    assert [(kind["task"], kind["n"]) for kind in kinds] == [
        ("heldout_loss/novels", 1),
        ("heldout_loss/articles", 1),
    ]
    worst = max(kinds, key=lambda kind: kind["value"])
    assert (row["worst"], row["worst_part"]) == (worst["value"], worst["task"].split("/")[1])
    assert len(tokenizer(texts[0]["text"])["input_ids"]) > TOKENS
