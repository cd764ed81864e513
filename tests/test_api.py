"""moex without Hydra: what a `with` block leaves behind."""

from __future__ import annotations

import threading

import pytest
import torch
from records import handles

import moex


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_leaving_the_block_leaves_no_thread_and_no_handle(mixtral, store):
    threads, before = threading.active_count(), handles()
    prompt = torch.arange(2, 12)[None]
    tokens = []
    for _ in range(2):
        with moex.load(str(mixtral), slots=3, store=store) as model:
            tokens.append(model.generate(prompt, max_new_tokens=5, do_sample=False))
    assert torch.equal(*tokens)
    assert threading.active_count() == threads
    assert handles() == before


def test_a_load_that_fails_leaves_nothing_open(mixtral):
    moex.load(str(mixtral), slots=3, store="disk").close()
    threads, before = threading.active_count(), handles()
    with pytest.raises(ValueError, match=r"memory.rows=0.5"):
        moex.load(str(mixtral), slots=3, store="disk", rows=0.5)
    assert threading.active_count() == threads
    assert handles() == before
