"""The bundled model: standard files, the sizes promised, the same numbers on every path."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from moex.api import read_trace, simulate
from moex.cache.lru import LRU
from moex.evals.lm import evaluate
from moex.models import checkpoint
from moex.paths import trace_path
from moex.prefetch.gate import Gate
from moex.runner.assemble import Memory, Setup, load_model, offload

TASKS = ["moex_replace", "moex_swap"]


@pytest.fixture(scope="module")
def stock():
    return AutoModelForCausalLM.from_pretrained(
        checkpoint.find("tiny"), dtype="auto", experts_implementation="grouped_mm"
    ).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(checkpoint.find("tiny"))


def test_files_are_standard_and_small():
    files = [path for path in checkpoint.find("tiny").iterdir() if path.suffix != ".md"]
    assert sum(path.stat().st_size for path in files) <= 32_000_000
    assert all(p.stat().st_size <= 15_000_000 for p in files)
    loaded = load_model("tiny")
    assert (loaded.geometry.experts, loaded.geometry.top_k, loaded.geometry.layers) == (8, 2, 6)
    assert loaded.geometry.expert_bytes >= 500_000


def test_stock_and_moex_generate_the_same_text_from_the_same_logits(stock, tokenizer):
    prompt = tokenizer("The old house stood at the end of the lane, and", return_tensors="pt")
    expected = stock.generate(**prompt, max_new_tokens=24, do_sample=False)
    with (
        offload(load_model("tiny"), Setup(LRU(), Memory(3), Gate())) as model,
        torch.inference_mode(),
    ):
        assert torch.equal(model.generate(**prompt, max_new_tokens=24, do_sample=False), expected)
        assert torch.equal(model(expected).logits, stock(expected).logits)


def test_fifty_items_score_the_same_on_the_offloaded_path(stock, tokenizer):
    expected = evaluate(stock, tokenizer, TASKS, limit=25, batch_size=8)
    with offload(load_model("tiny"), Setup(LRU(), Memory(2), Gate())) as model:
        assert evaluate(model, tokenizer, TASKS, limit=25, batch_size=8) == expected


def test_the_bundled_trace_replays():
    trace = read_trace(trace_path("tiny"))
    report = simulate(trace, LRU(), 4, Gate())
    assert report.requests == len(trace) * 2
    assert 0.4 < report.hit_rate < report.effective_hit_rate < 1
