"""mode=chat: lines in, texts out as stock transformers continues them, and a line of costs each."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import moex
from moex.modes.chat import _prompts

ROOT = Path(__file__).parents[2]


def chat(typed: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run.py"), "mode=chat", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=env, input=typed, capture_output=True, text=True, timeout=200
    )


@pytest.fixture(scope="module")
def answered(mixtral, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    words = ["model=hf", f"model.name={mixtral}", "memory.slots=3", "mode.new_tokens=6"]
    return folder, chat("the river\nand the sea\n", *words, folder=folder)


def test_every_line_is_continued_as_the_model_continues_it(answered, mixtral):
    _, done = answered
    assert done.returncode == 0, done.stderr
    tokenizer, expected = AutoTokenizer.from_pretrained(mixtral), []
    with moex.load(str(mixtral), slots=8, store="ram") as model:
        for text in ("the river", "and the sea"):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            new = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
            expected.append(tokenizer.decode(new, skip_special_tokens=True))
    assert done.stdout == "".join(f"{text}\n" for text in expected)


def test_below_each_answer_stand_speed_hits_and_bytes(answered):
    folder, done = answered
    line = r"[\d.]+ tokens/s, first after [\d.]+ s; hits \d+%, with prefetches \d+%; [\d.]+ MB/"
    assert len(re.findall(line, done.stderr)) == 2, done.stderr
    assert not list((folder / "results").glob("*")), "nothing is kept"


def test_a_chat_model_s_template_is_used_and_lines_too_long_are_said(mixtral, monkeypatch, capsys):
    tokenizer = AutoTokenizer.from_pretrained(mixtral)
    tokenizer.chat_template = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    monkeypatch.setattr(sys, "stdin", io.StringIO("sea\n" + "long " * 50 + "\nhill\n\nmore\n"))
    texts = [tokenizer.decode(ids) for ids in _prompts(tokenizer, 100)]
    assert texts == ["<sea>", "<hill>"]
    assert "252 tokens: expected at least 1, fewer than 100" in capsys.readouterr().err


@pytest.mark.study
def test_a_policy_that_knows_the_future_cannot_chat(tmp_path):
    done = chat("", "cache=belady", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.endswith("try cache=lru prefetch=gate\n")
    done = chat("", "-m", "seed=0,1", folder=tmp_path)
    assert "mode=chat: is typed to, and cannot be swept" in done.stderr
