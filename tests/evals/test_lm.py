import json
import logging
import math
import os
import sys
from pathlib import Path

import lm_eval
import pytest
import torch
from lm_eval.tasks import TaskManager

from moex.evals import lm
from moex.evals.lm import check_tasks, evaluate, mean_and_stderr
from moex.evals.tasks import LOCAL, OWN, PUBLISHED, task_documents


def log_likelihood(model, tokenizer, context, continuation):
    """The plain way: one sequence, no padding."""
    start = tokenizer(context)["input_ids"] or [tokenizer.bos_token_id]
    tokens = start + tokenizer(continuation)["input_ids"]
    with torch.inference_mode():
        scores = model(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
    return sum(scores[i - 1, tokens[i]].item() for i in range(len(start), len(tokens)))


def test_the_quick_form_gives_a_row_for_every_task_and_phenomenon(model, tokenizer):
    rows = evaluate(model, tokenizer, list(OWN), limit=14)
    whole = [row for row in rows if "/" not in row["task"]]
    assert [row["task"] for row in whole] == list(OWN)
    parts = [row for row in rows if row["task"].startswith("moex_grammar/")]
    assert len(parts) == 14
    assert sum(row["n"] for row in parts) == 14
    for row in whole:
        worst = {"worst", "worst_part"} if row["task"] == "moex_grammar" else set()
        assert set(row) == {"task", "metric", "value", "stderr", "n", "checksum"} | worst
        assert row["n"] == 14
        assert 0 <= row["value"] <= 1
        binomial = math.sqrt(row["value"] * (1 - row["value"]) / (row["n"] - 1))
        assert row["stderr"] == pytest.approx(binomial)
    json.dumps(rows)


def test_scores_are_those_of_single_unpadded_sequences(model, tokenizer):
    [row] = evaluate(model, tokenizer, ["moex_replace"], limit=12, batch_size=8)
    right = 0
    for document in task_documents("moex_replace", 12, 0, None, None):
        scores = [log_likelihood(model, tokenizer, "", text) for text in document["choices"]]
        right += scores.index(max(scores)) == document["gold"]
    assert row["value"] == right / 12


def test_padding_changes_log_likelihoods_by_rounding_only(model, tokenizer):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    texts = [text for d in task_documents("moex_swap", 10, 0, None, None) for text in d["choices"]]
    scores = []
    for batch_size in (1, 8):
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=("", text), idx=0)
            for text in texts
        ]
        scores.append([score for score, _ in wrapped.loglikelihood(requests, disable_tqdm=True)])
    assert scores[0] == pytest.approx(scores[1], abs=1e-4, rel=1e-6)


def test_evaluation_is_quiet_and_leaves_no_traces(model, tokenizer, capsys, monkeypatch):
    monkeypatch.delenv("DISABLE_MULTIPROC", raising=False)
    level = logging.getLogger("lm_eval").level
    evaluate(model, tokenizer, ["moex_swap"], limit=2)
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger("lm_eval").level == level
    assert "DISABLE_MULTIPROC" not in os.environ


def test_items_of_one_sentence_count_as_one_draw():
    values, origins = [1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1]
    assert mean_and_stderr(values, [0, 1, 2, 3])[1] == pytest.approx(math.sqrt(1 / 3 / 4))
    assert mean_and_stderr(values, origins) == (0.5, pytest.approx(0.5))
    assert mean_and_stderr([1.0], [0]) == (1.0, None)


@pytest.fixture
def few_hub_tasks(monkeypatch, tmp_path):
    """lm-eval's index takes many seconds to read: the ARC tasks and one more stand for it."""
    rows = [{"q": "The sky is", "a": ["blue", "loud"]}, {"q": "Fire is", "a": ["hot", "wet"]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tiny.yaml").write_text(
        "task: tiny\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {tmp_path}/rows.jsonl\n"
        "doc_to_text: '{{q}}'\ndoc_to_choice: '{{a}}'\ndoc_to_target: 0\n"
        "metric_list:\n  - metric: acc\n"
    )
    folders = [Path(lm_eval.__file__).parent / "tasks" / "arc", tmp_path]
    manager = TaskManager(include_defaults=False, include_path=folders)
    monkeypatch.setattr(lm, "_hub_tasks", lambda: manager)


def test_hub_tasks_run_beside_local_ones(model, tokenizer, few_hub_tasks):
    rows = evaluate(model, tokenizer, ["moex_swap", "tiny"], limit=2)
    assert [(row["task"], row["metric"], row["n"]) for row in rows] == [
        ("moex_swap", "acc", 2),
        ("tiny", "acc", 2),
    ]
    assert all(row["checksum"] for row in rows)


def test_an_unknown_task_is_answered_with_the_local_names(model, tokenizer, few_hub_tasks):
    with pytest.raises(ValueError, match=r"no task named 'moex_spawn': local tasks are") as error:
        evaluate(model, tokenizer, ["moex_swap", "moex_spawn"], limit=2)
    assert all(name in str(error.value) for name in LOCAL)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.environ["HF_HUB_OFFLINE"] != "1", reason="would ask the hub")
def test_a_hub_task_without_its_data_says_what_to_do(model, tokenizer, few_hub_tasks):
    with pytest.raises(RuntimeError, match=r"arc_easy .*HF_HUB_OFFLINE.*moex_replace"):
        evaluate(model, tokenizer, ["arc_easy"], limit=2)
    with pytest.raises(RuntimeError, match="arc_easy"):  # before anything is run for it
        check_tasks(["moex_swap", "arc_easy"])
    check_tasks(["moex_swap", "tiny"])


@pytest.mark.parametrize(
    ("task", "setting"), [("heldout_swap", "eval.text_dir"), ("blimp_local", "eval.data_dir")]
)
def test_a_task_without_its_folder_names_the_setting(model, tokenizer, task, setting):
    with pytest.raises(ValueError, match=setting):
        evaluate(model, tokenizer, [task])


def test_a_folder_without_the_items_is_named(model, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"piqa.*eval\.data_dir"):
        evaluate(model, tokenizer, ["piqa_local"], data_dir=tmp_path)


@pytest.mark.study
def test_published_items_run(model, tokenizer, shared):
    rows = evaluate(model, tokenizer, list(PUBLISHED), limit=4, data_dir=shared / "eval")
    found = {(row["task"], row["metric"]): row for row in rows if "/" not in row["task"]}
    assert set(found) == {
        ("blimp_local", "acc"),
        ("lambada_local", "acc"),
        ("lambada_local", "perplexity"),
        ("hellaswag_local", "acc"),
        ("hellaswag_local", "acc_norm"),
        ("piqa_local", "acc"),
        ("piqa_local", "acc_norm"),
    }
    assert all(row["n"] == 4 for row in found.values())


@pytest.mark.parametrize(
    ("task", "items"),
    [
        ("blimp_local", 67_000),
        ("lambada_local", 5_153),
        ("hellaswag_local", 10_042),
        ("piqa_local", 1_838),
    ],
)
def test_published_items_are_all_there(shared, task, items):
    documents = task_documents(task, None, 0, shared / "eval", None)
    assert len(documents) == items
    if task == "blimp_local":
        assert len({document["group"] for document in documents[:67]}) == 67


def test_the_items_of_a_task_do_not_need_torch():
    import subprocess

    code = "import sys, moex.evals.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_standard_error_that_is_no_number_is_left_out():
    metrics = {"acc,none": 1.0, "acc_stderr,none": float("nan"), "sample_len": 1}
    (row,) = lm._reported("one", metrics)
    assert (row["value"], row["stderr"], row["n"]) == (1.0, None, 1)
