"""Prompts come from where they are said to, and are cut, batched and continued as asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from moex.bench.prompts import Hub, Jsonl, Prompts
from moex.bench.sampling import Sampler, greedy
from moex.cli.errors import one_line


class Letters:
    """A tokenizer whose tokens are letters."""

    def __call__(self, text: str) -> dict:
        return {"input_ids": [ord(letter) for letter in text]}


def spelt(batches: list[torch.Tensor]) -> list[list[str]]:
    return [["".join(map(chr, row)) for row in batch.tolist()] for batch in batches]


def test_prompts_are_cut_or_repeated_to_one_length_and_batched():
    workload = Prompts(prompts=["abcdef", "xy", "z"], prompt_tokens=4, batch_size=2)
    assert spelt(workload.batches(Letters(), "cpu")) == [["abcd", "xyxy"], ["zzzz"]]


def test_prompts_keep_their_own_lengths():
    workload = Prompts(prompts=["abcdef", "xy", "z"], prompt_tokens=None, limit=2)
    assert spelt(workload.batches(Letters(), "cpu")) == [["abcdef"], ["xy"]]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"prompt_tokens": 0}, "workload.prompt_tokens=0: expected a number, at least 1"),
        ({"limit": 0}, "workload.limit=0: expected a number, at least 1"),
        ({"prompt_tokens": None, "batch_size": 2}, "padding would demand experts"),
        ({"sampling": "beam"}, "workload.sampling=beam: expected greedy or sample"),
        ({"top_p": 0.9}, "try workload.sampling=sample"),
        ({"sampling": "sample", "temperature": 0}, "workload.temperature=0: expected more than 0"),
        ({"sampling": "sample", "top_p": 1.2}, "workload.top_p=1.2: expected more than 0"),
    ],
)
def test_settings_that_make_no_run_are_refused(settings, line):
    with pytest.raises(ValueError, match=line.replace(".", r"\.")):
        Prompts(prompts=["a"], **settings)


@pytest.mark.parametrize(("prompts", "line"), [([], "no prompt"), (["a", ""], "prompt 1 has no")])
def test_no_prompt_and_an_empty_one_are_refused(prompts, line):
    with pytest.raises(ValueError, match=line):
        Prompts(prompts=prompts).batches(Letters(), "cpu")


def test_a_jsonl_file_gives_the_field_that_is_asked_for(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"prompt": "one", "chat": {"first": "uno"}}\n\n{"prompt": "two", "chat": 3}\n')
    assert list(Jsonl(path=str(path)).texts()) == ["one", "two"]
    nested = Jsonl(path=str(path), field="chat.first")
    assert next(iter(nested.texts())) == "uno"
    with pytest.raises(ValueError, match=r"line 3: no text in chat\.first; expected"):
        list(nested.texts())


@pytest.mark.parametrize("line", ["{", "[1]", '"text"'])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "texts.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match="line 1: no"):
        list(Jsonl(path=str(path)).texts())


def test_a_missing_file_is_one_line():
    with pytest.raises(FileNotFoundError) as found:
        list(Jsonl(path="nowhere.jsonl").texts())
    assert one_line(found.value).startswith("workload.path=nowhere.jsonl: no such file")


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """A folder of data files; what `datasets` makes of it stays in the test's own folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [
        {"text": "Hello?", "lang": "en", "parent_id": None},
        {"text": "Hallo?", "lang": "de", "parent_id": None},
        {"text": "Hello!", "lang": "en", "parent_id": "a"},
        {"text": "Why?", "lang": "en", "parent_id": None},
    ]
    folder = tmp_path / "talk"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_rows_of_a_data_set_are_chosen_by_their_values(data_set):
    workload = Hub(dataset=data_set, where={"lang": "en", "parent_id": None})
    assert list(workload.texts()) == ["Hello?", "Why?"]


def test_first_turns_of_chats_are_found_inside_lists(tmp_path, data_set):
    chats = [
        [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Yes?"}],
        [{"from": "gpt", "value": "Well?"}],
        [],
        [{"from": "human", "value": " "}],
    ]
    folder = tmp_path / "chats"
    folder.mkdir()
    lines = "".join(json.dumps({"conversations": chat}) + "\n" for chat in chats)
    (folder / "all.jsonl").write_text(lines)
    (folder / "other.txt").write_text("no chat\n")
    given = {"field": "conversations.0.value", "where": {"conversations.0.from": "human"}}
    workload = Hub(dataset=str(folder), files="all.jsonl", at_least=1, **given)
    assert list(workload.texts()) == ["Hi."]


HUB = Path(__file__).parents[2] / "conf" / "workload"
NAMED = ["sharegpt", "lmsys", "mt_bench", "alpaca", "wikitext", "gsm8k", "humaneval"]


@pytest.mark.parametrize("name", NAMED)
def test_a_named_data_set_offline_names_the_bundled_prompts(name):
    text = (HUB / f"{name}.yaml").read_text()
    given = yaml.safe_load(text)
    assert given.pop("defaults") == ["hub", "_self_"]
    assert given["name"] == name
    assert "icence" in text
    assert "network once" in text
    with pytest.raises(RuntimeError) as found:
        list(Hub(**given).texts())
    line = one_line(found.value)
    assert line.startswith(f"workload.dataset={given['dataset']}: cannot be loaded (")
    assert "try workload=short" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"split": "test"}, "cannot be loaded .Unknown split"),
        ({"field": "prompt"}, "no text in prompt; expected workload.field= one of text, lang"),
        ({"where": {"language": "en"}}, "no column language for workload.where; expected one of"),
    ],
)
def test_what_a_data_set_lacks_is_named(data_set, settings, line):
    with pytest.raises((ValueError, RuntimeError), match=line):
        list(Hub(dataset=data_set, **settings).texts())


def test_a_data_set_of_the_hub_offline_is_one_line():
    with pytest.raises(RuntimeError) as found:
        list(Hub(dataset="nobody/has-this").texts())
    line = one_line(found.value)
    assert line.startswith("workload.dataset=nobody/has-this: cannot be loaded (")
    assert "run once with a network, or try workload=short" in line


def test_draws_follow_the_probabilities_and_repeat():
    logits = torch.tensor([[0.5, 0.2, 0.3]]).log()
    sampler = Sampler(seed=4)
    drawn = [int(sampler(logits, 0, number)) for number in range(3000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=3) / 3000
    assert torch.allclose(shares, torch.tensor([0.5, 0.2, 0.3]), atol=0.03)
    assert drawn == [int(Sampler(seed=4)(logits, 0, number)) for number in range(3000)]
    assert drawn != [int(Sampler(seed=5)(logits, 0, number)) for number in range(3000)]


def test_a_draw_does_not_depend_on_the_batch():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    sampler = Sampler(seed=1, temperature=2.0)
    alone = [int(sampler(logits[row : row + 1], row, 7)) for row in range(4)]
    assert sampler(logits, 0, 7).flatten().tolist() == alone


def test_top_p_and_temperature_narrow_the_choice():
    logits = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log().repeat(200, 1)
    assert set(Sampler(top_p=0.6)(logits, 0, 0).flatten().tolist()) == {0, 2}
    assert set(Sampler(top_p=0.01)(logits, 0, 0).flatten().tolist()) == {0}
    cold = Sampler(temperature=0.01)(logits, 0, 0)
    assert torch.equal(cold, greedy(logits, 0, 0))


@pytest.mark.parametrize("named", [("workload", "path"), ("sparsity", "counts")])
def test_what_is_in_a_named_file_is_part_of_a_run_s_name(tmp_path, named):
    from moex.runs.run_id import run_id

    path = tmp_path / "texts.jsonl"
    group, key = named
    names = set()
    for text in ("one", "two"):
        path.write_text(json.dumps({"prompt": text}))
        names.add(run_id({group: {"deep": [{key: str(path)}], "long": "x" * 5000}}))
    assert len(names) == 2
