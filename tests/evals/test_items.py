"""The items that moex reads: those of the package, and those made of held-out text."""

import json
import lzma

import pytest

from moex.evals.items import NAME, checksum, read_items
from moex.evals.tasks import OWN, task_documents


@pytest.mark.parametrize("kind", OWN.values())
def test_there_are_five_thousand_different_items_of_every_task(kind):
    items = read_items(kind, None)
    assert len({frozenset(item["choices"]) for item in items}) == len(items) == 5000
    assert read_items(kind, 100) == items[:100]


CHECKSUMS = {
    "moex_replace": ("0688b9cfa02a48f9", "3a8b9425248705d5"),
    "moex_swap": ("b9264af1d62e456c", "e17e84e962bcc07b"),
    "moex_cloze": ("1a79247f6902f094", "497710da8d693355"),
    "moex_grammar": ("85060587f6956f62", "b1eddf9039c55b46"),
    "moex_loss": ("178ea462f3c394a8", "1b4c2df5749aa1c7"),
}


@pytest.mark.parametrize("task", CHECKSUMS)
def test_the_items_are_those_that_results_were_measured_on(task):
    """Checksums as rows of earlier releases hold them, of 100 and of all items."""
    documents = [task_documents(task, limit, 0, None, None) for limit in (100, None)]
    assert tuple(map(checksum, documents)) == CHECKSUMS[task]


def test_more_items_than_there_are_is_refused_with_a_limit_that_works():
    with pytest.raises(ValueError, match=r"^eval.limit=5001: moex_swap has 5000 items; try") as no:
        task_documents("moex_swap", 5001, 0, None, None)
    assert len(task_documents("moex_swap", int(str(no.value).rpartition("=")[2]), 0, None, None))


def test_items_of_held_out_text_are_read_beside_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no items .*make.py --text"):
        task_documents("heldout_swap", 1, 0, None, tmp_path)
    item = {"choices": ["A dog ran.", "A ran dog."], "gold": 0, "group": "", "origin": 3}
    with lzma.open(tmp_path / NAME, "wt", encoding="utf-8") as file:
        file.write(json.dumps({"task": "swap", **item}) + "\n")
    assert task_documents("heldout_swap", 1, 0, None, tmp_path) == [{"context": "", **item}]
    with pytest.raises(ValueError, match="heldout_swap has 1 items; try"):
        task_documents("heldout_swap", 2, 0, None, tmp_path)


def test_a_seed_draws_no_other_items():
    documents = [task_documents("moex_cloze", 5, seed, None, None) for seed in (0, 1)]
    assert documents[0] == documents[1]
