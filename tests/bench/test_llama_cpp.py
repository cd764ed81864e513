"""llama.cpp runs the same workload from the same file, for the same row."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from gguf_files import ARCHITECTURES, random_model, write

from moex.bench.llama_cpp import run_llama_cpp
from moex.bench.prompts import Prompts
from moex.cache.lru import LRU
from moex.quant.checkpoint import Checkpoint
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.types import DECODE, PREFILL

pytest.importorskip("gguf", reason="the package gguf is not installed")
TEXTS = Prompts(prompts=["cab", "a cab"], prompt_tokens=8, new_tokens=6, warmup=0, repeats=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOEX_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_llama_cpp_chooses_tokens_that_moex_finds_as_likely(name, tmp_path):
    """Names, rotations and settings are read alike: only activations are rounded otherwise."""
    pytest.importorskip("xllamacpp", reason="the package xllamacpp is not installed")
    path = tmp_path / "model.gguf"
    write(random_model(name), path, {"gate": "Q8_0", "up": "Q4_0", "down": "Q8_0"})
    result = run_llama_cpp(str(path), TEXTS, threads=1)
    loaded = load_model(str(path), "float32", quant=Checkpoint())
    prompts = [batch[0].tolist() for batch in TEXTS.batches(loaded.tokenizer(), "cpu")]
    with offload(loaded, Setup(LRU(), Memory(4))) as model, torch.inference_mode():
        for prompt, found in zip(prompts, result.round.texts, strict=True):
            logits = model(torch.tensor([[*prompt, *found]])).logits[0].log_softmax(-1)
            for at, token in enumerate(found, len(prompt) - 1):
                assert logits[at, 1:].max() - logits[at, token] < 0.02  # 0 is the end of a text
    report = result.report
    assert (report.runner, report.store, report.repeats) == ("llama_cpp", "mmap", 2)
    assert (report.tokens_prefill, report.tokens_decode) == (16, 10)
    assert report.kernel.startswith("llama.cpp (xllamacpp ")
    phases = result.round.phases
    assert phases[DECODE].passes == 10
    assert report.tokens_per_second == 10 / phases[DECODE].seconds
    assert phases[PREFILL].seconds > 0


def test_llama_cpp_that_is_not_installed_is_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ValueError, match=r"xllamacpp is not installed; .* try pip install"):
        run_llama_cpp(str(tmp_path / "model.gguf"), TEXTS, threads=1)


def test_llama_cpp_that_is_too_old_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", SimpleNamespace())
    monkeypatch.setattr("moex.bench.llama_cpp.version", lambda name: "0.1")
    with pytest.raises(ValueError, match=r"xllamacpp 0.1 is too old; .* try pip install -U"):
        run_llama_cpp("model.gguf", TEXTS, threads=1)


def test_a_model_that_is_no_gguf_file_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"model.name=tiny is no GGUF file; .* try runner="):
        run_llama_cpp("tiny", TEXTS, threads=1)


@pytest.mark.parametrize("given", [{"batch_size": 2}, {"sampling": "sample"}])
def test_a_workload_that_llama_cpp_runs_otherwise_is_refused_in_one_line(given):
    with pytest.raises(ValueError, match=r"one prompt after the other.*try workload.batch_size=1"):
        run_llama_cpp("model.gguf", Prompts(prompts=["a"], **given), threads=1)
