"""Text becomes windows of documents; what cannot be trained on is said in one line."""

from __future__ import annotations

import json
import lzma

import numpy as np
import pytest
from small_models import write_tokenizer

from moex.train.data import Corpus, corpus, documents


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def folder(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for number in range(30):
        (text / f"{number:02}.txt").write_text(f"document {number} " * 100)
    return text


def made(folder, tokenizer, tmp_path, context=64, most=10**6):
    return corpus(str(folder), tokenizer, tmp_path, context, most, seed=0)


def test_windows_stay_in_their_document_and_split(folder, tokenizer, tmp_path):
    found = made(folder, tokenizer, tmp_path)
    assert len(found.starts) == 30
    ends = np.append(found.starts[1:], len(found.tokens))
    of = {}
    for held_out, windows in found.windows.items():
        of[held_out] = np.searchsorted(found.starts, windows, side="right") - 1
        assert (windows + 64 <= ends[of[held_out]]).all()
    assert set(of[True]) == {1, 21}
    assert not set(of[True]) & set(of[False])
    assert found.batch(3, 4).shape == (4, 64)


def test_a_batch_depends_on_its_number_alone(folder, tokenizer, tmp_path):
    first, again = (made(folder, tokenizer, tmp_path) for _ in range(2))
    assert (first.batch(5, 4) == again.batch(5, 4)).all()
    assert (first.batch(5, 4) != first.batch(6, 4)).any()


def test_encoded_text_is_kept_and_most_is_enough(folder, tokenizer, tmp_path):
    found = made(folder, tokenizer, tmp_path, most=30_000)
    assert 30_000 <= len(found.tokens) < 33_000
    for file in folder.iterdir():
        file.write_text("changed")
    assert (made(folder, tokenizer, tmp_path).tokens == found.tokens).all()


def test_lines_of_other_splits_are_left_out(tmp_path):
    lines = [{"text": "a"}, {"text": "b", "split": "test"}, {"text": "c", "split": "train"}]
    with lzma.open(tmp_path / "x.jsonl.xz", "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    assert list(documents([tmp_path / "x.jsonl.xz"])) == ["a", "c"]
    for line in ('{"token": 1}', "[1]", "no JSON"):
        (tmp_path / "series.jsonl").write_text(f'{{"text": "a"}}\n{line}\n')
        with pytest.raises(
            ValueError, match=r"^train\.text=.*series\.jsonl: line 2 is no {\"text\""
        ):
            list(documents([tmp_path / "series.jsonl"]))


def test_tokens_are_taken_from_the_same_tokenizer_only(tokenizer, tmp_path):
    ids = np.tile(np.arange(3, 103, dtype=np.uint16), 300)
    ids[::1500] = tokenizer.eos_token_id
    ids.tofile(tmp_path / "x.bin")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json in its folder"):
        made(tmp_path / "x.bin", tokenizer, tmp_path)
    write_tokenizer(tmp_path)
    assert len(made(tmp_path / "x.bin", tokenizer, tmp_path).starts) == 20
    known = json.loads((tmp_path / "tokenizer.json").read_text())
    known["model"]["vocab"]["zzz"] = 5000
    (tmp_path / "tokenizer.json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match="another tokenizer"):
        made(tmp_path / "x.bin", tokenizer, tmp_path)


def test_too_little_text_is_one_line(tokenizer, tmp_path):
    (tmp_path / "short.txt").write_text("just this")
    with pytest.raises(ValueError, match="at least 2 documents and 20000 tokens") as caught:
        made(tmp_path / "short.txt", tokenizer, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no text there"):
        made(tmp_path / "nothing", tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"train\.text=FILE_OR_FOLDER"):
        corpus(None, tokenizer, tmp_path, 64, 10**6, 0)


def test_two_documents_are_enough():
    tokens = np.ones(60_000, np.uint16)
    found = Corpus(tokens, np.array([0, 50_000]), 64, "two")
    assert len(found.windows[True]) == 10_000 // 64
